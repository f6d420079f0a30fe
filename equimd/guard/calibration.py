"""A run's calibration on disk, ``RUN/calibration/``: posterior.safetensors, and calibration.json with all the rest.

The JSON names the hash of the posterior beside it and that of the model it was made for. It is written last, so that an
interrupted save leaves the earlier calibration, or a pair that is recognised as not belonging together.
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
from equimd.files import STRANGE, load_tensors, save_tensors, strictly, typed, versions, write_atomic
from equimd.guard.score import StepDecision
from equimd.guard.screen import Screen
from equimd.guard.thresholds import ErrorBound, FlagThreshold, HaltThreshold
from equimd.shown import Shown
from equimd.uq.posterior import LastLayer
from equimd.uq.predict import Calibrated
from equimd.uq.recalibration import Recalibration

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


@dataclass(frozen=True)
class Levels:
    """The screen's levels of the two decisions, eV/Angstrom; None where there is no such threshold."""

    flag: float
    halt: float | None = None


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

        Above the screen's level of halts it is the decision of halts, so that the runs behind these tell its rate.

        Raises:
            UncertaintyError: a bound that is not positive.
        """
        if not bound > 0:
            raise UncertaintyError(f"an error bound of {bound:g} eV/Angstrom", hint="a positive number")
        threshold, halts = bound / self.error.multiplier, self.levels.halt
        level = self.screen.level_for(threshold) if halts is None or threshold < halts else halts
        return StepDecision(self.calibrated, self.screen, level), threshold

    def choose(self, asked: str | float) -> tuple[Mode | Literal["error"], StepDecision, float]:
        """Kind, decision and threshold of what :func:`~equimd.guard.thresholds.parse_threshold` made of a wish other
        than ``off``: ``auto`` is the halt threshold if there is one, else the flag threshold.

        Raises:
            UncertaintyError: a threshold that was not calibrated.
        """
        if isinstance(asked, float):
            return "error", *self.error_decision(asked)
        kind: Mode = "flag" if asked == "flag" or (asked == "auto" and self.halt is None) else "halt"
        return kind, *self.decision(kind)

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

    def save(self, run_folder: str | Path) -> Path:
        """Write it into a run; returns the folder."""
        folder = Path(run_folder) / FOLDER
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


def is_calibrated(run_folder: str | Path) -> bool:
    """Whether a run has a calibration, of whatever model."""
    return (Path(run_folder) / FOLDER / JSON_FILE).is_file()


def load_calibration(run_folder: str | Path, model_sha256: str) -> Calibration:
    """The calibration of a run.

    Args:
        model_sha256: of the weights at hand, the ``sha256`` in the metadata that comes with a loaded model.

    Raises:
        UncertaintyError: there is none, it was made for other weights, by a newer equimd, or its files do not belong
            together.
        RunError: damaged arrays.
    """
    folder, line = Path(run_folder) / FOLDER, f"equimd calibrate {run_folder} --data FRAMES"
    if not (folder / JSON_FILE).is_file():
        raise UncertaintyError("the run is not calibrated", where=str(run_folder), hint=line)
    values = _read(folder / JSON_FILE, line)
    if values.get("model_sha256") != model_sha256:
        raise UncertaintyError(
            "the model is not the one that was calibrated: the weights have changed since", where=str(folder), hint=line
        )
    tensors, meta = load_tensors(folder / POSTERIOR_FILE, "posterior")
    if meta["sha256"] != values.get("posterior_sha256") and (folder / NEXT_FILE).is_file():  # killed while saving
        tensors, meta = load_tensors(folder / NEXT_FILE, "posterior")
    if meta["sha256"] != values.get("posterior_sha256"):
        raise UncertaintyError(
            f"{POSTERIOR_FILE} and {JSON_FILE} are not of one calibration", where=str(folder), hint=line
        )
    try:
        return _build(values, LastLayer.from_state(tensors))
    except (RuntimeError, *STRANGE) as error:
        raise UncertaintyError(f"is incomplete ({error})", where=str(folder / JSON_FILE), hint=line) from None


def _read(path: Path, line: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, *STRANGE) as error:
        raise UncertaintyError(f"cannot be read ({error})", where=str(path), hint=line) from None
    if not isinstance(values, dict) or values.get("kind") != "calibration":
        raise UncertaintyError("is not a calibration", where=str(path), hint=line)
    version = values.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UncertaintyError(
            f"the calibration has format version {version}, this equimd reads up to {FORMAT_VERSION}",
            where=str(path),
            hint="update equimd",
        )
    return values


@dataclass
class _Told:
    """What a calibration is told of, beside its numbers."""

    compositions: tuple[str, ...]
    elements: tuple[int, ...]
    model_sha256: str
    data_sha256: dict[str, str]
    created: str
    versions: dict[str, str]
    frames: ScoredFrames | None = None
    test_frames: ScoredFrames | None = None


@dataclass
class _Forces:
    zms: float | None = None
    coverage_95: float | None = None


@dataclass
class _On:
    n: int
    frames: str


@dataclass
class _Dynamics:
    maxima: list[float] | None = None
    seconds: float | None = None


@dataclass
class _Partition:
    frames: dict[str, int] | None = None


@dataclass
class _Reported:
    """What is read again of a report."""

    data: list[str] | None = None
    forces: _Forces | None = None
    reported_on: _On | None = None
    dynamics: _Dynamics | None = None
    partition: _Partition | None = None


def _build(values: Mapping[str, Any], layer: LastLayer) -> Calibration:
    forms = {name: Recalibration.from_json(values["recalibration"][name]) for name in ("energy", "forces")}
    strictly(_Reported, values["report"])
    told = strictly(_Told, values)
    return Calibration(
        calibrated=Calibrated(layer, **forms),
        screen=Screen.from_json(values["screen"]),
        levels=typed(Levels, values["levels"]),
        state_point=typed(StatePoint, values["state_point"]),
        flag=typed(FlagThreshold, values["flag"]),
        halt=None if values["halt"] is None else typed(HaltThreshold, values["halt"]),
        error=typed(ErrorBound, values["error"]),
        report=values["report"],
        **vars(told),
    )
