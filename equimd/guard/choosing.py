"""Which of a run's calibrations is taken for a simulation: the one made for such dynamics, or the nearest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equimd.errors import UncertaintyError
from equimd.files import STRANGE, typed
from equimd.guard.calibration import Calibration, StatePoint
from equimd.guard.saved import load_calibration, places, read_values
from equimd.guard.thresholds import HaltThreshold


@dataclass(frozen=True)
class Wanted:
    """A simulation: how, how long, and of what (a Hill formula)."""

    dynamics: StatePoint
    steps: int
    formula: str


@dataclass(frozen=True)
class Chosen:
    """A calibration for a simulation.

    Attributes:
        folder: it is in. note: which it is and why, a sentence. missing: where none fits, a sentence with the command
            that would make one.
    """

    calibration: Calibration
    folder: Path
    note: str
    missing: str | None


@dataclass(frozen=True)
class _Known:
    """What decides, of one that was made for the model."""

    point: StatePoint
    compositions: list[str]
    run_length: int | None

    def misses(self, wanted: Wanted) -> bool:
        """Whether it is of other molecules or dynamics, or of shorter runs."""
        other = wanted.formula not in self.compositions or self.point.differences(wanted.dynamics)
        return bool(other) or (self.run_length is not None and self.run_length < wanted.steps)

    def distance(self, wanted: Wanted) -> tuple[float, ...]:
        """Small where it fits: molecules first, then dynamics, a threshold to halt at, and runs as short as do."""
        point, now = self.point, wanted.dynamics
        heat = abs((point.temperature_K or 0.0) - (now.temperature_K or 0.0)) if point.temperature_K else 1e9
        length = self.run_length or 0
        enough = length >= wanted.steps
        return (
            wanted.formula not in self.compositions,
            len(point.differences(now)),
            heat,
            self.run_length is None,
            not enough,
            length if enough else -length,
        )


def choose_calibration(run_folder: str | Path, model_sha256: str, wanted: Wanted, name: str | None = None) -> Chosen:
    """The calibration of a run for a simulation: the one of that name, else the one that fits best.

    Of those made for these weights it is one of the molecule, temperature, ensemble, time step and friction, with the
    shortest runs that are long enough; where there is none, the nearest.

    Raises:
        UncertaintyError, RunError: as :func:`~equimd.guard.saved.load_calibration`.
    """
    there = places(run_folder)
    known = {called: found for called, folder in there.items() if (found := _known(folder, model_sha256)) is not None}
    best = name or min(known, key=lambda called: known[called].distance(wanted), default=None)
    calibration = load_calibration(run_folder, model_sha256, best)
    called = calibration.called
    fits = called in known and not known[called].misses(wanted)
    of = f" of the run's {len(known)}" if len(known) > 1 else ""
    if name is not None:
        why = "as asked"
    elif fits:
        why = f"the one{of} that is made for such runs"
    else:
        why = f"the nearest{of}" if of else "the only one"
    missing = None if fits or any(not k.misses(wanted) for k in known.values()) else _missing(run_folder, wanted)
    return Chosen(calibration, there[called], f"calibration: {called}, {why}", missing)


def _missing(run_folder: str | Path, wanted: Wanted) -> str:
    point = wanted.dynamics
    options: dict[str, Any] = {"temperature": point.temperature_K, "ensemble": point.ensemble, "dt": point.dt_fs}
    options |= {"friction": point.friction_per_fs, "run-length": wanted.steps}
    told = "".join(f" --{k} {v if isinstance(v, str) else f'{v:g}'}" for k, v in options.items() if v is not None)
    return (
        f"no calibration of the run is for {wanted.steps} steps of such dynamics: `equimd calibrate {run_folder} "
        f"--data FRAMES{told}` makes one beside those there are"
    )


def _known(folder: Path, model_sha256: str) -> _Known | None:
    """What a calibration is for; None of one of other weights, or that cannot be read."""
    try:
        values = read_values(folder)
        if values.get("model_sha256") != model_sha256:
            return None
        halt = values["halt"]
        length = None if halt is None else typed(HaltThreshold, halt).run_length
        return _Known(typed(StatePoint, values["state_point"]), list(values["compositions"]), length)
    except (UncertaintyError, *STRANGE):
        return None
