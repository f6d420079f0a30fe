"""The calibrations of a run on disk: which there are, and how one is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from equimd.errors import UncertaintyError
from equimd.files import STRANGE, file_digest, load_tensors, strictly, typed
from equimd.guard.calibration import (
    FOLDER,
    FORMAT_VERSION,
    JSON_FILE,
    NEXT_FILE,
    POSTERIOR_FILE,
    Calibration,
    Levels,
    ScoredFrames,
    StatePoint,
)
from equimd.guard.screen import Screen
from equimd.guard.thresholds import ErrorBound, FlagThreshold, HaltThreshold
from equimd.uq.posterior import LastLayer
from equimd.uq.predict import Calibrated
from equimd.uq.recalibration import Recalibration


def places(run_folder: str | Path) -> dict[str, Path]:
    """The folders of a run's calibrations, of whatever model, by name, the first one first."""
    first = Path(run_folder) / FOLDER
    if not first.is_dir():
        return {}
    found = {_first_name(first / JSON_FILE): first} if (first / JSON_FILE).is_file() else {}
    for folder in sorted(first.iterdir()):
        if (folder / JSON_FILE).is_file():
            found.setdefault(folder.name, folder)
    return found


def place_for(run_folder: str | Path, name: str) -> Path:
    """Where a calibration of that name is, or will be: the first of a run in ``RUN/calibration``."""
    first, there = Path(run_folder) / FOLDER, places(run_folder)
    return there.get(name, first / name if (first / JSON_FILE).is_file() else first)


def _first_name(path: Path) -> str:
    """As it says, or that of its state point; of one that cannot be read, that of its folder."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values.get("name"), str):
            return values["name"]
        length = None if values["halt"] is None else int(values["halt"]["run_length"])
        return typed(StatePoint, values["state_point"]).name(length)
    except (OSError, *STRANGE):
        return FOLDER


def name_of(run_folder: str | Path, digest: str) -> str | None:
    """The name of the calibration whose JSON has a digest (:func:`~equimd.files.file_digest`); None if it is gone."""
    there = places(run_folder).items()
    return next((name for name, folder in there if file_digest(folder / JSON_FILE) == digest), None)


def is_calibrated(run_folder: str | Path) -> bool:
    """Whether a run has a calibration, of whatever model."""
    return bool(places(run_folder))


def load_calibration(run_folder: str | Path, model_sha256: str, name: str | None = None) -> Calibration:
    """A calibration of a run; without a name the first that was made for these weights.

    Args:
        model_sha256: of the weights at hand, the ``sha256`` in the metadata that comes with a loaded model.

    Raises:
        UncertaintyError: there is none, it was made for other weights, by a newer equimd, or its files do not belong
            together.
        RunError: damaged arrays.
    """
    line, there = f"equimd calibrate {run_folder} --data FRAMES", places(run_folder)
    if not there:
        raise UncertaintyError("the run is not calibrated", where=str(run_folder), hint=line)
    if name is not None and name not in there:
        hint = f"there is {', '.join(there)}; or {line} --name {name}"
        raise UncertaintyError(f"no calibration '{name}'", where=str(run_folder), hint=hint)
    of_these = (known for known, folder in there.items() if _weights(folder) == model_sha256)
    name = name or next(of_these, next(iter(there)))
    found = _load(there[name], model_sha256, line)
    return found if found.called == name else replace(found, name=name)


def _weights(folder: Path) -> str | None:
    """The hash of the model that the calibration in a folder was made for; None if it cannot be read."""
    try:
        return read_values(folder).get("model_sha256")
    except UncertaintyError:
        return None


def _load(folder: Path, model_sha256: str, line: str) -> Calibration:
    values = read_values(folder, line)
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


def read_values(folder: Path, line: str = "") -> dict[str, Any]:
    """The JSON of a calibration, as it is.

    Args:
        line: the command that makes a calibration, for messages.

    Raises:
        UncertaintyError: it is none, or of a newer equimd.
    """
    path = folder / JSON_FILE
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
    name: str | None = None
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
    low_maxima: list[float] | None = None


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
