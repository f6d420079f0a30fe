"""What watches a simulation, and what thresholds mean, in sentences for someone who runs molecular dynamics."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from equimd.errors import ConfigError
from equimd.guard.calibration import Calibration, StatePoint
from equimd.guard.certificate import load_certificate, words
from equimd.guard.choosing import Wanted, choose_calibration
from equimd.guard.judge import Action
from equimd.guard.rates import Counted, ErrorRates, error_rates, rates_ladder
from equimd.guard.saved import is_calibrated
from equimd.guard.score import Rule
from equimd.guard.sizes import counted_to_halve, frames_to_halve, runs_to_halve
from equimd.guard.thresholds import CONFIDENCE, UNIT, ErrorBound, FlagThreshold, HaltThreshold, parse_threshold
from equimd.uq.bounds import upper_bound

EXPECTED_ERROR = "expected error of the force on some atom"  # what the force sigma is
#: Plain steps of a small compiled molecule that an exact score takes the time of; from so much more time on it is said.
EXACT_CALLS, DEAR = 20, 0.2


def percent(share: float) -> str:
    """A share as per cent, two significant digits."""
    return f"{_two_digits(share)} %"


def _two_digits(share: float) -> str:
    return "100" if share >= 0.995 else f"{100 * share:.2g}"


def _range(interval: tuple[float, float]) -> str:
    low, high = map(_two_digits, interval)
    return f"{low} and {high} %"


def _runs(halt: HaltThreshold, calibration: Calibration, of: str = "") -> str:
    """The runs that a threshold of halts was calibrated for."""
    point = calibration.state_point
    length = f"{halt.run_length} steps ({halt.run_length * point.dt_fs / 1000:.3g} ps)"
    return f"a run of {length}{of} at {point.temperature_K:g} K"


def _by_mistake(halt: HaltThreshold, this: str = "for this calibration ") -> str:
    """How often such a run halts by mistake."""
    return (
        f"by mistake with a probability of at most {percent(halt.alpha)} ({this}between {_range(halt.interval)}, "
        f"from {halt.n_blocks} independent runs)."
    )


def _flags(flag: FlagThreshold, calibration: Calibration) -> str:
    """How often frames are flagged that are like those it was calibrated on."""
    return (
        f"of frames like the calibration frames ({_names(calibration)}) this happens to {percent(flag.alpha)} (for "
        f"this calibration between {_range(flag.interval)}, from {flag.n_frames} frames worth {flag.n_effective:.0f} "
        "independent ones)."
    )


def halt_meaning(halt: HaltThreshold, calibration: Calibration) -> str:
    """What it means that a run halts."""
    return (
        f"A run halts before the first frame in which the {EXPECTED_ERROR} exceeds {halt.value:.3g} eV/A; in "
        f"{_runs(halt, calibration, f' of {_names(calibration)}')} this happens {_by_mistake(halt)}"
    )


def flag_meaning(flag: FlagThreshold, calibration: Calibration) -> str:
    """What it means that a frame is flagged."""
    return f"A frame is flagged when the {EXPECTED_ERROR} exceeds {flag.value:.3g} eV/A; {_flags(flag, calibration)}"


def both_meaning(halt: HaltThreshold, calibration: Calibration) -> str:
    """What it means that frames are flagged on the way to a halt."""
    flag = calibration.flag
    return (
        f"A frame is flagged when the {EXPECTED_ERROR} exceeds {flag.value:.3g} eV/A, which happens to "
        f"{percent(flag.alpha)} of frames like the calibration frames ({_names(calibration)}; for this calibration "
        f"between {_range(flag.interval)}), and a run halts before the first frame in which it exceeds "
        f"{halt.value:.3g} eV/A: in {_runs(halt, calibration)} this happens {_by_mistake(halt, this='')}"
    )


def exact_note(calibration: Calibration) -> list[str]:
    """One line where flags make a run dear: frames near the flag threshold are looked at closer."""
    frames, levels = calibration.frames, calibration.levels
    if frames is None or levels.halt is None:
        return []
    share, anyway = (float(np.mean(np.array(frames.screen) >= level)) for level in (levels.flag, levels.halt))
    times = (1 + EXACT_CALLS * share) / (1 + EXACT_CALLS * anyway)
    if times < 1 + DEAR:
        return []
    return [
        f"{percent(share)} of frames like the calibration frames are looked at closer to flag them, each for about "
        f"{EXACT_CALLS} steps of a small molecule: such a run takes about {times:.1f} times as long as with "
        "`--uq-threshold halt`, where none is flagged below the threshold of halts"
    ]


def rate_sentences(found: ErrorRates, action: Action) -> list[str]:
    """How often a bound on the force error speaks, and what it misses."""
    out, frames, runs, missed = [], found.frames, found.runs, found.missed
    if runs is not None and (runs.events or not found.at_least):
        does = "halts by mistake" if action == "halt" else "has flagged frames"
        least = "at least " if found.at_least else ""
        odds = f"above {percent(runs.interval[0])}" if found.at_least else f"between {_range(runs.interval)}"
        out.append(
            f"in {least}{runs.events} of {runs.trials} runs of {found.run_length} steps that the calibration made of "
            f"the model, it rose above that: such a run {does} with a probability {odds}"
        )
    if frames is not None:
        text = (
            f"{frames.events} of {frames.trials} ordinary frames score above that (between {_range(frames.interval)})"
        )
        bad = f"{found.missed_of} frames with a force error above {found.bound:.3g} eV/A"
        if missed is None:
            text += f"; there are no {bad}: what it misses is not known"
        else:
            text += f"; of {missed.trials} {bad}, {missed.events} do not (between {_range(missed.interval)})"
        out.append(text)
    return out


def error_table(calibration: Calibration) -> list[list[str]]:
    """How often bounds on the force error speak, and what they miss: a head, and a row a bound; none of a calibration
    that kept no frames."""

    def cell(found: Counted | None, least: bool = False) -> str:
        if found is None:
            return "none"
        low, high = map(_two_digits, found.interval)
        if least and not found.events:
            return "not known"
        rate = percent(found.rate)
        return f"at least {rate} ({low} to 100)" if least else f"{rate} ({low} to {high})"

    rows = rates_ladder(calibration)
    if not rows:
        return []
    halts = calibration.halt is not None
    head = ["error bound, eV/A", "of ordinary frames above", "of bad frames missed"]
    out = [[*head[:2], *([f"of runs of {rows[0].run_length} steps halted"] if halts else []), head[2]]]
    for row in rows:
        name = "" if row.name is None else f" ({row.name})"
        runs = [cell(row.runs, row.at_least)] if halts else []
        out.append([f"{row.bound:.3g}{name}", cell(row.frames), *runs, cell(row.missed)])
    return out


def error_table_note(calibration: Calibration) -> str:
    """What the columns of :func:`error_table` are."""
    of = "threshold" if calibration.test_frames is None else "test"
    return (
        f"`--uq-threshold 0.1eV/A` halts at an error bound; in brackets 95 % intervals, in %. Ordinary frames are the "
        f"threshold frames; bad ones are {of} frames with a force error above the bound."
    )


def more_runs(calibration: Calibration, found: ErrorRates | None = None) -> list[str]:
    """One line where the rate of halts is wide, or that of an error bound: how many runs would halve its interval."""
    halt, total = calibration.halt, None
    if halt is None:
        return []
    have, interval = halt.n_blocks, halt.interval
    if found is None:
        total = runs_to_halve(halt)
    elif found.runs is not None and not found.at_least:
        total, have, interval = counted_to_halve(found.runs), found.runs.trials, found.runs.interval
    if total is None:
        return []
    return [
        f"{have} runs leave the probability of a false halt between {_range(interval)}: `equimd calibrate` with "
        f"`--blocks {total}` would halve that, and runs need no labels"
    ]


def more_frames(calibration: Calibration) -> list[str]:
    """One line where the rate of flags is wide, or else that of the error bound: how many frames would halve it."""
    parts = (calibration.report.get("partition") or {}).get("frames") or {}
    flag, error = calibration.flag, calibration.error
    for what, threshold in (
        ("the share of flagged frames", flag),
        ("the share of frames the error bound holds", error),
    ):
        total = frames_to_halve(threshold)
        if total is not None and threshold.n_frames:
            each = sum(parts.values()) / parts["threshold"] if parts.get("threshold") else 1.0
            more = math.ceil((total - threshold.n_frames) * each)
            return [
                f"{threshold.n_frames} threshold frames leave {what} between {_range(threshold.interval)}: about "
                f"{float(f'{more:.2g}'):g} more labelled frames like these in `--data` would halve that"
            ]
    return []


def error_meaning(error: ErrorBound) -> str:
    """What the error bound says."""
    return (
        f"The largest force error on an atom is below {error.multiplier:.3g} times the largest sigma in "
        f"{percent(error.coverage)} of such frames; away from them there is no such bound."
    )


def threshold_meaning(calibration: Calibration) -> str:
    """One sentence: what the default of a run means, the thresholds of flags and halts, or the one there is."""
    if calibration.halt is None:
        return flag_meaning(calibration.flag, calibration)
    both = calibration.choose("auto").flag is not None
    return (both_meaning if both else halt_meaning)(calibration.halt, calibration)


def _names(calibration: Calibration) -> str:
    names = calibration.compositions
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} molecules"


@dataclass(frozen=True)
class Watch:
    """What watches a run beside the physical checks.

    Attributes:
        rule: the score and what it is compared with; None with ``off``.
        action: what is done above the threshold.
        source: the folder of the calibration that they are from.
        about: for summary.json: mode, action, threshold, unit, alpha ...
        notes, warnings: sentences for the person who starts the run.
    """

    about: dict[str, Any]
    rule: Rule | None = None
    action: Action = "halt"
    source: Path | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_watch(
    run: str | Path,
    model_sha256: str,
    asked: str | None = None,
    on_exceed: Action | None = None,
    *,
    dynamics: StatePoint,
    steps: int,
    formula: str,
    calibration: str | None = None,
    flags: bool = True,
) -> Watch:
    """The threshold that is asked for (``auto`` without it), from a calibration of a run.

    Args:
        on_exceed: what is done above it, if not what it was calibrated for.
        dynamics, steps, formula: how, how long and of what is simulated; warned of where it was not calibrated for.
        calibration: its name; by default the one that fits.
        flags: whether ``auto`` flags frames below the threshold of halts, too.

    Raises:
        ConfigError: a threshold that is none, or an action without one.
        UncertaintyError: a threshold is asked for, and the run has no calibration of this model, or not this one.
    """
    mode = "auto" if asked is None else parse_threshold(asked)
    if asked is None and on_exceed is None and calibration is None and not is_calibrated(run):
        text = (
            "the run is not calibrated: the physical checks alone watch this simulation; "
            f"`equimd calibrate {run} --data FRAMES` makes it know its errors"
        )
        return Watch({"mode": "off"}, warnings=[text])
    if mode == "off":
        for option, given in (("on-exceed", on_exceed), ("calibration", calibration)):
            if given is not None:
                what = f"{option} has no threshold to act on: uq-threshold is off"
                raise ConfigError(what, hint="leave one of them out")
        return Watch({"mode": "off"}, notes=["threshold: off, the physical checks alone watch"])
    chosen = choose_calibration(run, model_sha256, Wanted(dynamics, steps, formula), calibration)
    found = chosen.calibration
    rule = found.choose(mode)
    rule = rule if flags else replace(rule, flag=None)
    action: Action = on_exceed or ("flag" if rule.kind == "flag" else "halt")
    notes, about = _described(found, mode if isinstance(mode, float) else rule.kind, rule, action)
    about["calibration"] = found.called
    if isinstance(mode, float) and asked is not None and re.fullmatch(r"[-+0-9.e]+", asked.strip().lower()):
        notes.insert(0, f"uq-threshold {asked.strip()} is taken as {mode:g} eV/A")
    warnings = state_point_warnings(found, dynamics, formula)
    if action == "halt":
        warnings += _longer(found, about, steps)
    if warnings and chosen.missing is not None:
        warnings.append(chosen.missing)
    notes.append(chosen.note)
    certificate = load_certificate(run, model_sha256)
    if certificate is not None:
        notes.append(words(certificate))
        about["certificate"] = certificate
    return Watch(about, rule, action, chosen.folder, notes, warnings)


def _longer(calibration: Calibration, about: dict[str, Any], steps: int) -> list[str]:
    """For the record the bound on false halts; and a sentence on runs that are longer than those calibrated on."""
    halt, rates = calibration.halt, about.get("rates")
    if about["mode"] == "halt" and halt is not None:
        about["false_halt_bound"] = halt.bound(steps)
        if steps > halt.run_length:
            return [
                f"{steps} steps are more than the {halt.run_length} the threshold was calibrated for: by the union "
                f"bound the probability of a false halt of a replica is at most {percent(halt.bound(steps))} instead "
                f"of {percent(halt.alpha)}"
            ]
    if rates and rates["runs"] and not rates["at_least"] and steps > rates["run_length"]:
        most = min(1.0, math.ceil(steps / rates["run_length"]) * rates["runs"]["interval"][1])
        return [
            f"{steps} steps are more than the {rates['run_length']} of the calibration's runs: by the union bound the "
            f"probability of a false halt of a replica is at most {percent(most)}"
        ]
    return []


def _described(
    calibration: Calibration, mode: str | float, rule: Rule, action: Action
) -> tuple[list[str], dict[str, Any]]:
    """The threshold in a sentence, or both, and for the record."""
    threshold = rule.threshold
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
        found = _told(calibration, mode, about)
        return [text, *rate_sentences(found, action), *more_runs(calibration, found)], about
    if mode == "flag" or calibration.halt is None:
        rate = calibration.flag
        about |= _flagging(calibration)
        return [f"{head}, the {EXPECTED_ERROR}; {_flags(rate, calibration)}", *more_frames(calibration)], about
    halt = calibration.halt
    about |= {
        "alpha": halt.alpha, "run_length": halt.run_length, "n_blocks": halt.n_blocks, "interval": list(halt.interval)
    }  # fmt: skip
    told = "calibrated for the action halt: " * (action == "flag")
    if rule.flag is None:
        means = f"{told}in {_runs(halt, calibration)} the guard halts {_by_mistake(halt)}"
        return [f"{head}, the {EXPECTED_ERROR}; {means}", *more_runs(calibration)], about
    flag, about["flag"] = calibration.flag, _flagging(calibration)
    return [
        f"thresholds: flags frames above a force sigma of {rule.flag[1]:.4g} eV/A, {does} above {threshold:.4g} eV/A; "
        f"sigma is the {EXPECTED_ERROR}",
        f"flagged are {percent(flag.alpha)} of frames like the calibration frames ({_names(calibration)}; for this "
        f"calibration between {_range(flag.interval)}); {told}in {_runs(halt, calibration)} the guard halts "
        f"{_by_mistake(halt, this='')}",
        *more_runs(calibration),
        *more_frames(calibration),
        *exact_note(calibration),
    ], about


def _flagging(calibration: Calibration) -> dict[str, Any]:
    """The threshold of flags and its rate, for the record."""
    rate = calibration.flag
    return {
        "threshold": rate.value, "alpha": rate.alpha, "n_effective": rate.n_effective, "interval": list(rate.interval)
    }  # fmt: skip


def _told(calibration: Calibration, bound: float, about: dict[str, Any]) -> ErrorRates:
    """What the calibration counted of a bound, and for the record."""
    found = error_rates(calibration, *calibration.error_decision(bound))
    about["rates"] = found.to_json()
    if (runs := found.runs) is not None:
        most = upper_bound(runs.trials if found.at_least else runs.events, runs.trials, CONFIDENCE)
        about |= {
            "run_length": found.run_length, "own_runs": runs.trials, "own_halts": runs.events, "own_halts_bound": most
        }  # fmt: skip
    return found


def state_point_warnings(calibration: Calibration, now: StatePoint, formula: str) -> list[str]:
    """Sentences on every way in which dynamics is not what the thresholds were calibrated for."""
    point, unlike = calibration.state_point, calibration.unlike(formula)
    out = [] if unlike is None else [unlike]
    differs = point.differences(now)
    if differs:
        then, here = (", ".join(side) for side in zip(*differs, strict=True))
        out.append(f"the threshold was calibrated for {then}, this run has {here}: the stated rate does not hold there")
    if point.score_every != 1:
        out.append(
            f"the threshold was calibrated on one score in {point.score_every} steps, here every step is judged: false "
            "alarms are more frequent than stated"
        )
    return out
