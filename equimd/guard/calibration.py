"""A calibration of a run on disk: posterior.safetensors, and calibration.json with all the rest.

The first of a run is in ``RUN/calibration/``, others are below it in folders of their names. The JSON names the hash of
the posterior beside it and that of the model it was made for. It is written last, so that an interrupted save leaves
the earlier calibration, or a pair that is recognised as not belonging together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from equimd.errors import UncertaintyError
from equimd.files import save_tensors, versions, write_atomic
from equimd.guard.score import Rule, StepDecision
from equimd.guard.screen import Screen
from equimd.guard.thresholds import ErrorBound, FlagThreshold, HaltThreshold
from equimd.shown import Shown
from equimd.uq.predict import Calibrated

FORMAT_VERSION = 1
FOLDER, POSTERIOR_FILE, JSON_FILE = "calibration", "posterior.safetensors", "calibration.json"
NEXT_FILE = "posterior.next.safetensors"  # there while a calibration takes the place of another

Mode = Literal["flag", "halt"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class StatePoint:
    """The dynamics that the thresholds were calibrated for.

    Attributes:
        friction_per_fs: None in ensembles without friction.
        score_every: steps between two scores.
    """

    temperature_K: float | None  # noqa: N815 (a unit)
    ensemble: str
    dt_fs: float
    friction_per_fs: float | None = None
    score_every: int = 1

    def name(self, run_length: int | None = None) -> str:
        """Of a calibration for it, such as ``300K-langevin-5ps``: that of halts has a length, in steps."""
        heat = "" if self.temperature_K is None else f"{self.temperature_K:g}K-"
        length = "" if run_length is None else f"-{run_length * self.dt_fs / 1000:g}ps"
        return f"{heat}{self.ensemble}{length}"

    def differences(self, now: StatePoint) -> list[tuple[str, str]]:
        """In what other dynamics differs: what there is here, and what there is now."""
        found: list[tuple[str, str]] = []
        then_kelvin, now_kelvin = self.temperature_K, now.temperature_K
        if then_kelvin and now_kelvin is not None and abs(then_kelvin - now_kelvin) > 1e-6 * max(1.0, then_kelvin):
            found.append((f"{then_kelvin:g} K", f"{now_kelvin:g} K"))
        if self.ensemble != now.ensemble:
            found.append((self.ensemble, now.ensemble))
        if abs(self.dt_fs - now.dt_fs) > 1e-9:
            found.append((f"time steps of {self.dt_fs:g} fs", f"{now.dt_fs:g} fs"))
        then, here = self.friction_per_fs, now.friction_per_fs
        same = self.ensemble == now.ensemble
        if same and then is not None and here is not None and abs(then - here) > 1e-9:
            found.append((f"a friction of {then:g}/fs", f"{here:g}/fs"))
        return found


@dataclass(frozen=True)
class Levels:
    """The screen's levels of the two decisions, eV/Angstrom; None where there is no such threshold. ``runs`` is a lower
    one, above which the model's own runs tell how often they exceed any threshold."""

    flag: float
    halt: float | None = None
    runs: float | None = None


@dataclass(frozen=True)
class ScoredFrames:
    """Labelled frames beside their scores, in order of time within each trajectory; eV/Angstrom, one value a frame.

    Attributes:
        screen, exact: the free score and the exact one. error: largest force error on an atom.
        trajectory: which one the frame is from.
    """

    screen: tuple[float, ...]
    exact: tuple[float, ...]
    error: tuple[float, ...]
    trajectory: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Calibration(Shown):
    """All that turns a model into one that knows its errors.

    Attributes:
        calibrated: posterior and recalibrations of energies and forces.
        screen, levels: of the decision of every step.
        flag, halt, error: thresholds on its score, eV/Angstrom; halt is None where the dynamics could not state one.
        state_point: temperature, ensemble and step of that dynamics.
        compositions: Hill formulas of the calibration frames; elements: their atomic numbers.
        model_sha256: of the weights, as in the header of model.safetensors.
        data_sha256: of the frames, by part: ``train``, ``calibration`` ...
        report: how good it was found to be.
        name: among those of a run; None for that of its state point.
        frames: that the flag and error thresholds are from. test_frames: others, of the report.
        created: time, ISO 8601. versions: of the packages it was made with.
    """

    calibrated: Calibrated
    screen: Screen
    levels: Levels
    flag: FlagThreshold
    halt: HaltThreshold | None
    error: ErrorBound
    state_point: StatePoint
    compositions: tuple[str, ...]
    elements: tuple[int, ...]
    model_sha256: str
    data_sha256: dict[str, str]
    report: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    frames: ScoredFrames | None = None
    test_frames: ScoredFrames | None = None
    created: str = field(default_factory=_now)
    versions: dict[str, str] = field(default_factory=versions)

    def _shown(self) -> Mapping[str, str]:
        point, error = self.state_point, self.error
        found = {"flag": f"above {self.flag.value:.4g} eV/A, {100 * self.flag.alpha:.3g} % of ordinary frames"}
        if self.halt is not None:
            rate = f"{100 * self.halt.alpha:.3g} % of ordinary runs of {self.halt.run_length} steps"
            found["halt"] = f"above {self.halt.value:.4g} eV/A, {rate}"
        found["error"] = f"below {error.multiplier:.3g} sigma in {100 * error.coverage:.3g} % of ordinary frames"
        heat = "no stated temperature" if point.temperature_K is None else f"{point.temperature_K:g} K"
        friction = "" if point.friction_per_fs is None else f", {point.friction_per_fs:g}/fs"
        found["for"] = f"{', '.join(self.compositions)} at {heat}, {point.ensemble}{friction}, {point.dt_fs:g} fs"
        forces, on = self.report.get("forces") or {}, self.report.get("reported_on")
        zms, covered = forces.get("zms"), forces.get("coverage_95")
        if on and zms is not None and covered is not None:
            found["quality"] = (
                f"forces ZMS {zms:.3g}, {100 * covered:.3g} % of errors where 95 % should be, "
                f"on {on['n']} {on['frames']} frames"
            )
        return found

    def __post_init__(self) -> None:
        for mode in ("flag", "halt"):
            if getattr(self, mode) is not None:
                self.decision(mode)

    @property
    def called(self) -> str:
        """Its name among the calibrations of a run."""
        return self.name or self.state_point.name(None if self.halt is None else self.halt.run_length)

    def decision(self, mode: Mode) -> tuple[StepDecision, float]:
        """The decision that a mode calibrated, and its threshold, eV/Angstrom.

        Raises:
            UncertaintyError: a threshold that was not calibrated, or lies below its screen's level.
        """
        threshold, level = getattr(self, mode), getattr(self.levels, mode)
        if threshold is None or level is None:
            raise UncertaintyError(
                f"the calibration has no {mode} threshold", hint="`equimd calibrate` again with what it said is missing"
            )
        decision = StepDecision(self.calibrated, self.screen, level)
        return decision, decision.check(threshold.value)

    def error_decision(self, bound: float) -> tuple[StepDecision, float]:
        """The decision, and its threshold on the score, for a bound (eV/Angstrom) on the error q * sigma.

        Above the lowest level that the model's own runs were scored at it is their decision: they tell its rate.

        Raises:
            UncertaintyError: a bound that is not positive.
        """
        if not bound > 0:
            raise UncertaintyError(f"an error bound of {bound:g} eV/Angstrom", hint="a positive number")
        threshold = bound / self.error.multiplier
        scored = self.levels.halt if self.levels.runs is None else self.levels.runs
        level = self.screen.level_for(threshold) if scored is None or threshold < scored else scored
        return StepDecision(self.calibrated, self.screen, level), threshold

    def choose(self, asked: str | float) -> Rule:
        """The rule for what :func:`~equimd.guard.thresholds.parse_threshold` made of a wish other than ``off``.

        ``auto`` is the halt threshold, and the flag threshold below it; the one there is, where it is the only one or
        the flag threshold is not the lower one.

        Raises:
            UncertaintyError: a threshold that was not calibrated.
        """
        if isinstance(asked, float):
            return Rule("error", *self.error_decision(asked))
        if asked == "auto" and self.halt is not None:
            lower = self.flag.value < self.halt.value
            return Rule("halt", *self.decision("halt"), flag=self.decision("flag") if lower else None)
        kind: Mode = "halt" if asked == "halt" else "flag"
        return Rule(kind, *self.decision(kind))

    def unlike(self, *formulas: str) -> str | None:
        """A sentence if compositions (Hill formulas) are none that it was calibrated on; None if all are."""
        strangers = [f for f in dict.fromkeys(formulas) if f not in self.compositions]
        if not strangers:
            return None
        names = ", ".join(strangers[:3]) + (" ..." if len(strangers) > 3 else "")
        return (
            f"{names}: not a composition the uncertainties were calibrated on ({', '.join(self.compositions)}), "
            "their size is a guess"
        )

    def save(self, run_folder: str | Path, folder: Path | None = None) -> Path:
        """Write it into a run, in the place of its first or into a folder of :func:`place_for`; returns the folder."""
        folder = folder or Path(run_folder) / FOLDER
        meta = {"model_sha256": self.model_sha256}
        digest = save_tensors(folder / NEXT_FILE, self.calibrated.layer.state_dict(), meta, "posterior")
        head = {"kind": "calibration", "version": FORMAT_VERSION, "posterior_sha256": digest}
        text = json.dumps({**head, **self._plain()}, indent=2, allow_nan=False)
        write_atomic(folder / JSON_FILE, text + "\n")  # from here on the new one counts
        os.replace(folder / NEXT_FILE, folder / POSTERIOR_FILE)
        return folder

    def _plain(self) -> dict[str, Any]:
        skipped = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "calibrated"}
        recalibration = {name: getattr(self.calibrated, name).to_json() for name in ("energy", "forces")}
        plain = {k: asdict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in skipped.items()}
        return {"recalibration": recalibration, **plain}
