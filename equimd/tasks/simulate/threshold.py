"""From ``--uq-threshold`` and the run's calibration to the rule that judges every step, and what to say about it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from equimd.errors import ConfigError
from equimd.guard import saved
from equimd.guard.asked import UNIT, parse_threshold, resolve
from equimd.guard.judge import Action, ScoreRule
from equimd.guard.wording import flag_meaning, halt_meaning, percent

if TYPE_CHECKING:
    from equimd.data.system import System
    from equimd.guard.decision import StepDecision
    from equimd.guard.saved import Calibration
    from equimd.model.painn.potential import Potential
    from equimd.tasks.simulate.settings import SimulationSettings


@dataclass(frozen=True)
class Watch:
    """What watches a run beside the physical checks.

    Attributes:
        rule: None with ``off``.
        decision: behind the rule's score, None with ``off``.
        about: for summary.json: mode, action, threshold, unit, alpha ...
        notes, warnings: sentences for the person who starts the run.
    """

    rule: ScoreRule | None
    about: dict[str, Any]
    decision: StepDecision | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_watch(
    settings: SimulationSettings,
    model: Potential,
    model_sha256: str,
    system: System,
    formula: str,
    *,
    charge: int = 0,
    spin: int = 0,
) -> Watch:
    """The rule that the settings ask for, from the calibration in their run.

    Raises:
        ConfigError: a threshold that is none, or an action without one.
        UncertaintyError: a threshold is asked for, and the run has no calibration of this model, or not this one.
    """
    asked = settings.uq_threshold
    mode = "auto" if asked is None else parse_threshold(asked)
    if asked is None and settings.on_exceed is None and not saved.is_calibrated(settings.run):
        text = (
            "the run is not calibrated: the physical checks alone watch this simulation; "
            f"`equimd calibrate {settings.run} --data FRAMES` makes it know its errors"
        )
        return Watch(None, {"mode": "off"}, warnings=[text])
    if mode == "off":
        if settings.on_exceed is not None:
            raise ConfigError("on-exceed has no threshold to act on: uq-threshold is off", hint="leave one of them out")
        return Watch(None, {"mode": "off"}, notes=["threshold: off, the physical checks alone watch"])
    calibration = saved.load(settings.run, model_sha256)
    kind, decision, threshold = resolve(calibration, mode)
    if not isinstance(mode, float):
        mode = kind
    action: Action = settings.on_exceed or ("flag" if mode == "flag" else "halt")
    rule = _rule(decision, threshold, action, model, system, charge, spin)
    steps = settings.n_steps + settings.equilibration_steps
    notes, about = _meaning(calibration, mode, threshold, action)
    if isinstance(mode, float) and asked is not None and re.fullmatch(r"[-+0-9.e]+", asked.strip().lower()):
        notes.insert(0, f"uq-threshold {asked.strip()} is taken as {mode:g} eV/A")
    warnings = state_point_warnings(calibration, settings, formula)
    if mode == "halt" and action == "halt" and calibration.halt is not None:
        about["false_halt_bound"] = calibration.halt.bound(steps)
        if steps > calibration.halt.run_length:
            warnings.append(
                f"{steps} steps are more than the {calibration.halt.run_length} the threshold was calibrated for: by "
                f"the union bound the probability of a false halt of a replica is at most "
                f"{percent(calibration.halt.bound(steps))} instead of {percent(calibration.halt.alpha)}"
            )
    return Watch(rule, about, decision, notes, warnings)


def _rule(
    decision: StepDecision, threshold: float, action: Action, model: Potential, system: System, charge: int, spin: int
) -> ScoreRule:
    from equimd.guard.score import SCORE_NAME, SCORE_UNIT, score_function

    score = score_function(decision, model, system, charge=charge, spin=spin)
    return ScoreRule(score, threshold, action, SCORE_NAME, SCORE_UNIT)


def _meaning(
    calibration: Calibration, mode: str | float, threshold: float, action: Action
) -> tuple[list[str], dict[str, Any]]:
    """The threshold in a sentence, and for the record."""
    does = {"halt": "halts a replica", "flag": "flags frames"}[action]
    head = f"threshold: {does} above a force sigma of {threshold:.4g} eV/A"
    about: dict[str, Any] = {"mode": mode, "action": action, "threshold": threshold, "unit": UNIT}
    if isinstance(mode, float):
        e = calibration.error
        about |= {"mode": "error", "error_bound": mode, "multiplier": e.multiplier, "coverage": e.coverage}
        text = (
            f"{head}, where the bound on the largest force error is {mode:g} eV/A; in domain it holds for "
            f"{percent(e.coverage)} of frames, out of domain for fewer"
        )
        return [text], about
    if mode == "flag" or calibration.halt is None:
        rate = calibration.flag
        about |= {"alpha": rate.alpha, "n_effective": rate.n_effective, "interval": list(rate.interval)}
        return [head, flag_meaning(rate, calibration)], about
    halt = calibration.halt
    about |= {
        "alpha": halt.alpha, "run_length": halt.run_length, "n_blocks": halt.n_blocks, "interval": list(halt.interval)
    }  # fmt: skip
    means = halt_meaning(halt, calibration)
    return [head, means if action == "halt" else f"calibrated for the action halt: {means}"], about


def state_point_warnings(calibration: Calibration, settings: SimulationSettings, formula: str) -> list[str]:
    """Sentences on every way in which the run is not what the thresholds were calibrated for."""
    point, out = calibration.state_point, []
    unlike = calibration.unlike(formula)
    if unlike is not None:
        out.append(unlike)
    differs: list[tuple[str, str]] = []
    if point.temperature_K and abs(point.temperature_K - settings.temperature) > 1e-6 * max(1.0, point.temperature_K):
        differs.append((f"{point.temperature_K:g} K", f"{settings.temperature:g} K"))
    if point.ensemble != settings.ensemble:
        differs.append((point.ensemble, settings.ensemble))
    if abs(point.dt_fs - settings.dt) > 1e-9:
        differs.append((f"time steps of {point.dt_fs:g} fs", f"{settings.dt:g} fs"))
    friction = point.friction_per_fs  # None in ensembles without
    if point.ensemble == settings.ensemble and friction is not None and abs(friction - settings.friction) > 1e-9:
        differs.append((f"a friction of {friction:g}/fs", f"{settings.friction:g}/fs"))
    if differs:
        then, now = (", ".join(side) for side in zip(*differs, strict=True))
        out.append(f"the threshold was calibrated for {then}, this run has {now}: the stated rate does not hold there")
    if point.score_every != 1:
        out.append(
            f"the threshold was calibrated on one score in {point.score_every} steps, here every step is judged: false "
            "alarms are more frequent than stated"
        )
    return out
