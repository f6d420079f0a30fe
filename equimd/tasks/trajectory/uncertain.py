"""What the model's own error makes of what is read off its trajectory: draws from its calibrated posterior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.errors import EquimdError, RunError
from equimd.guard.saved import load_calibration, name_of
from equimd.machine import choose_device
from equimd.md.recorded import gathered
from equimd.progress import Callback, counting
from equimd.run import Run
from equimd.tasks.trajectory.source import Source
from equimd.uq.draws import REWEIGHTED, Ensembles, energy_draws

if TYPE_CHECKING:
    from equimd.guard.calibration import Calibration
    from equimd.model.interface import Model

FRAMES = 5000  # over all replicas


@dataclass(frozen=True)
class Sampled:
    """Frames of all replicas, taken evenly: (T, n, 3) positions, Angstrom, and (T,) which replica each is of."""

    positions: np.ndarray
    which: np.ndarray

    @classmethod
    def of(cls, source: Source, most: int = FRAMES) -> Sampled:
        """At most so many frames of a trajectory."""
        return cls(*gathered(list(source.runs.values()), lambda part: part.positions, most))

    def frames(self, source: Source) -> Frames:
        """As the model takes them."""
        count, system = len(self.positions), source.system
        state = {key: np.full(count, value) for key, value in source.state.items()}
        box: dict[str, Any] = {}
        if system.cell is not None:
            box = {"cell": np.broadcast_to(system.cell.numpy(), (count, 3, 3)), "pbc": np.tile(system.pbc, (count, 1))}
        return Frames.build(system.numbers.numpy(), self.positions, **state, **box, where=source.name)


@dataclass(frozen=True)
class ModelErrors:
    """Whose draws the errors of the model are from, and how they got from energies to averages.

    Attributes:
        run: folder of the model. calibration: its name, ``for_K`` the temperature it was made for.
        temperature: K, of the frames. n_draws, n_frames: how many.
        method: ``reweighting``, or the order of the cumulant expansion that stands in for it.
        effective: share of the frames that reweighting leaves effective, the median draw.
        spread: eV, by which the energies of a draw scatter over the frames.
        energy: eV, standard deviation of the mean energy without what a draw adds to all frames alike.
    """

    run: str
    calibration: str
    for_K: float | None  # noqa: N815 (a unit)
    temperature: float
    n_draws: int
    n_frames: int
    method: str
    effective: float
    spread: float
    energy: float | None = None

    def words(self) -> list[str]:
        """What is to be known of the errors, a sentence a line."""
        if self.method == REWEIGHTED:
            how = f"reweighted, {100 * self.effective:.0f} % of them effective"
        else:
            how = f"{self.method}: reweighting would leave {100 * self.effective:.2g} % of them effective"
        told = [
            f"value ± model ± sampling; model: standard deviation over {self.n_draws} draws from the posterior of "
            f"{self.run} ({self.calibration}), {self.n_frames:,} frames {how}"
        ]
        if self.energy is not None:
            told.append(f"mean energy less what all frames of a draw share: model ± {1e3 * self.energy:.2g} meV")
        if self.for_K is not None and abs(self.for_K - self.temperature) > 1e-6 * self.temperature:
            told.append(f"calibrated at {self.for_K:g} K: errors of the model at {self.temperature:g} K are a guess")
        return told


@dataclass(frozen=True)
class Uncertain:
    """The ensembles of the draws, for the frames that were sampled."""

    ensembles: Ensembles
    about: ModelErrors


def uncertain(source: Source, sampled: Sampled, run: str | None, progress: Callback | None = None) -> Uncertain | str:
    """The draws of a trajectory, or a sentence on why there are none.

    Args:
        run: folder of the model, if it is not where the simulation found it.

    Raises:
        RunError: a ``run`` that is none. UncertaintyError: one that is of another model, or not calibrated.
    """
    settings, kelvin = source.settings, source.temperature
    if settings is None or source.identity is None:
        return "the frames are not of a simulation that is known; give its folder"
    if kelvin is None or not kelvin > 0:
        return f"draws are reweighted at the temperature of a bath, and {settings.ensemble} has none"
    if len(sampled.positions) < 2:
        return "a single frame has no distribution"
    try:
        model, calibration, folder = _calibrated(source, run or settings.run)
    except EquimdError as error:
        if run is not None:
            raise
        return f"{error.where}: {error.what}" if error.where else error.what
    if not model.conservative:
        return "the forces of the model are not the slope of its energy, whose ensemble draws would reweight"
    with counting(progress, "frames", "draws") as told:
        draws = energy_draws(
            model, calibration.calibrated, ArrayDataset(sampled.frames(source)), device=model.device, progress=told
        )
    ensembles = draws.ensembles(kelvin)
    count, n_draws = draws.energy.shape
    about = ModelErrors(
        folder, calibration.called, calibration.state_point.temperature_K, kelvin, n_draws, count, ensembles.method,
        float(np.median(ensembles.share)), draws.spread,
    )  # fmt: skip
    return Uncertain(ensembles, about)


def _calibrated(source: Source, folder: str) -> tuple[Model, Calibration, str]:
    """The model that made a trajectory, on the device it is used on, and its calibration."""
    run, began = Run.open(folder), source.identity or {}
    potential, meta = run.load_model()
    if meta["sha256"] != began["model_sha256"]:
        raise RunError("the model is not the one of this simulation any more", where=folder)
    digest = began["calibration_sha256"]
    named = source.settings.calibration if source.settings is not None else None
    named = named if digest is None else name_of(folder, digest) or named
    calibration, device = load_calibration(folder, meta["sha256"], named), choose_device("auto")
    calibrated = replace(calibration.calibrated, layer=calibration.calibrated.layer.to(device))
    return potential.converted(device=device), replace(calibration, calibrated=calibrated), folder
