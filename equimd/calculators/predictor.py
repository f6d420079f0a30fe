"""A trained model at work: energies, forces and their uncertainties for structures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from equimd.chemistry import formula
from equimd.data.batch import Batch
from equimd.data.dataset import ArrayDataset, Dataset, iterate_blocks
from equimd.data.frames import Frames
from equimd.data.state import in_words
from equimd.errors import DataError, UncertaintyError
from equimd.files import plain
from equimd.guard.calibration import Calibration
from equimd.guard.saved import is_calibrated, load_calibration
from equimd.guard.sigmas import DataSigmas
from equimd.machine import choose_device
from equimd.model.interface import Evaluation, Model, VirialModel, gives_virial
from equimd.run import Run
from equimd.shown import Shown
from equimd.training.batching import sorted_batches
from equimd.uq.predict import Predictions
from equimd.uq.predict import predict as predict_raw
from equimd.uq.rows import BATCH_SIZE as EXACT_BATCH

BATCH_SIZE = 50

#: Whether to compute uncertainties: ``auto``, if the run is calibrated; True, or fail; False, never.
Wanted = Literal["auto"] | bool


@dataclass(frozen=True, repr=False)
class Prediction(Shown):
    """What a model says of one structure of n atoms.

    Attributes:
        energy: total energy, eV.
        forces: (n, 3) eV/Angstrom, float64; None from a model trained on energies alone.
        stress: (6,) eV/Angstrom^3, ASE's order (xx, yy, zz, yz, xz, xy) and sign, of structures that are periodic in
            all directions; None of others, and from models whose forces are not the energy's gradient.
        energy_std, forces_std: calibrated standard deviations in the same units and shapes, those of forces by
            component; None, like all below, without a calibration.
        atom_forces_std: (n,) sqrt of the trace of each atom's force covariance, eV/Angstrom; no rotation changes it.
        score: what molecular dynamics is judged by, eV/Angstrom: the largest of ``atom_forces_std``, unless the screen
            cleared the structure; then it is the screen's estimate of that.
        screened: whether the score is the screen's.
        flagged: whether the score exceeds the flag threshold. atom: index of the largest ``atom_forces_std``.
    """

    energy: float
    forces: np.ndarray | None
    energy_std: float | None = None
    forces_std: np.ndarray | None = None
    atom_forces_std: np.ndarray | None = None
    score: float | None = None
    screened: bool | None = None
    flagged: bool | None = None
    atom: int | None = None
    stress: np.ndarray | None = None

    def _shown(self) -> Mapping[str, str]:
        found = {"energy": f"{self.energy:.6f} eV"}
        if self.energy_std is not None:
            found["energy"] += f" (sigma {1e3 * self.energy_std:.3g} meV)"
        if self.forces is not None:
            found["forces"] = (
                f"of {len(self.forces)} atoms, largest {np.linalg.norm(self.forces, axis=1).max():.3g} eV/A"
            )
        if self.score is not None and self.atom_forces_std is not None:
            found["largest sigma of a force"] = f"{self.atom_forces_std.max():.3g} eV/A (atom {self.atom})"
            found["score"] = f"{self.score:.3g} eV/A" + (" (screen)" if self.screened else "")
            found["flagged"] = "yes" if self.flagged else "no"
        return found

    def to_json(self) -> dict[str, Any]:
        """The entry of a structure in ``equimd predict --json``; uncertainties only of a calibrated run."""
        entry: dict[str, Any] = {"energy_eV": self.energy, "forces_eV_per_A": self.forces}
        if self.stress is not None:
            entry["stress_eV_per_A3"] = self.stress
        if self.energy_std is not None:
            entry |= {
                "energy_std_eV": self.energy_std,
                "forces_std_eV_per_A": self.forces_std,
                "atom_forces_std_eV_per_A": self.atom_forces_std,
                "score_eV_per_A": self.score,
                "screened": self.screened,
                "flagged": self.flagged,
                "atom": self.atom,
            }
        return plain(entry)


def evaluated(model: Model, batch: Batch, *, virial: bool) -> Evaluation:
    """What a model says of a batch, with its virial if that is wanted."""
    return model.evaluate_with_virial(batch) if virial and isinstance(model, VirialModel) else model.evaluate(batch)


def stress_of(out: Evaluation, structure: int, cell: np.ndarray) -> np.ndarray:
    """(6,) eV/Angstrom^3: the virial of a structure, as ASE has stress."""
    virial = out["virial"][structure].double().cpu().numpy()
    return full_3x3_to_voigt_6_stress(-virial / abs(np.linalg.det(cell)))


def unheard_state(model: Model, frames: Frames) -> str | None:
    """What to warn of where structures state what a model cannot know of."""
    if model.sees_charge_spin:
        return None
    if len(np.unique(frames.charge_spin, axis=0)) > 1:
        return "the structures differ in charge or spin, which this model does not see"
    known = getattr(getattr(model, "config", None), "states", ())
    if known == ((None, 0),) and (frames.charge.any() or (frames.spin > 1).any()):
        q, m = min(frames.states, key=str)
        return f"{in_words(q, m)}: the training frames state none, and the model answers for theirs"
    return None


class Predictor(Shown):
    """A trained model ready for use, and the calibration of its run.

    Args:
        potential: the model; a copy of it is used if it is on another device.
        device: where it computes: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``.
        run: the run it comes from, if any.
        sha256: of its weights, as in the header of its file; computed if not given.
        calibration: the name of the run's calibration that is used, if not of the first.
    """

    def __init__(
        self,
        potential: Model,
        *,
        device: str | torch.device = "cpu",
        run: Run | None = None,
        sha256: str | None = None,
        calibration: str | None = None,
    ) -> None:
        self.device = choose_device(str(device))
        self.potential = potential if potential.device == self.device else potential.converted(device=self.device)
        self.run = run
        self._sha256, self._named = sha256, calibration

    def _shown(self) -> Mapping[str, str]:
        from ase.data import chemical_symbols

        model = self.potential
        found = {} if self.run is None else {"run": str(self.run.path)}
        kind = "conservative" if model.conservative else "direct"
        found["forces"] = kind if model.has_forces else "none (energies alone)"
        found["elements"] = " ".join(chemical_symbols[z] for z in model.elements)
        found["model"] = f"{model.description}, cutoff {model.cutoff:g} A"
        found["on"] = f"{self.device}, {str(model.dtype).removeprefix('torch.')}"
        calibrated = self.run is not None and is_calibrated(self.run.path)
        return {**found, "calibrated": "yes" if calibrated else "no"}

    @classmethod
    def open(
        cls,
        run: str | Path,
        *,
        which: str = "best",
        device: str | torch.device = "cpu",
        calibration: str | None = None,
    ) -> Self:
        """The ``best`` weights of a run folder by validation, or the ``last`` ones.

        Raises:
            RunError: no such run, or it is damaged or newer than this equimd.
        """
        opened = Run.open(run)
        potential, meta = opened.load_model(which)
        # nobody trains it; and threads that share weights with gradients may wait for each other for ever within torch
        potential.requires_grad_(False)
        return cls(potential, device=device, run=opened, sha256=meta["sha256"], calibration=calibration)

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration of the run, on the device of the model.

        Raises:
            UncertaintyError: the run is not calibrated, or its model has changed since.
        """
        if self.run is None:
            raise UncertaintyError("a model without a run has no calibration", hint="equimd.load(RUN)")
        digest = self._sha256 or self.potential.identity()
        try:
            found = load_calibration(self.run.path, digest, self._named)
        except UncertaintyError as error:
            if not is_calibrated(self.run.path):
                raise
            hint = f"{error.hint}; or without uncertainties: --no-uncertainty, uncertainty=False"
            raise UncertaintyError(error.what, where=error.where, hint=hint) from None
        layer = found.calibrated.layer.to(self.device)
        return replace(found, calibrated=replace(found.calibrated, layer=layer))

    def gives_uncertainty(self, wanted: Wanted = "auto") -> bool:
        """Whether uncertainties are to be computed.

        Raises:
            UncertaintyError: they are wanted, or there by themselves, and the calibration cannot be used.
        """
        if wanted == "auto":
            wanted = self.run is not None and is_calibrated(self.run.path)
        return bool(wanted and self.calibration)

    @property
    def config(self) -> Any:
        """Settings of the model, where it keeps such: the :class:`~equimd.config.ModelConfig` of what equimd trains."""
        return getattr(self.potential, "config", None)

    @property
    def has_forces(self) -> bool:
        """Whether it gives forces: not after a training on energies alone."""
        return self.potential.has_forces

    def predict(
        self,
        structures: Atoms | Sequence[Atoms] | Frames,
        *,
        batch_size: int = BATCH_SIZE,
        uncertainty: Wanted = "auto",
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Energies and forces, with uncertainties if the run is calibrated.

        For conservative models the exact force covariance takes the derivatives of all features by all coordinates,
        tens of times the cost of energies and forces alone; ``uncertainty=False`` leaves it out.

        Args:
            structures: one ASE ``Atoms``, a sequence of them, or frames.
            batch_size: structures computed at once.
            progress: told the structures done and their number while uncertainties are computed.

        Returns:
            A :class:`Prediction` for one ``Atoms``; else a list of them, in order.

        Raises:
            ModelError: elements the model never saw.
            DataError: no structures, or positions that are not finite.
            UncertaintyError: the model has changed since it was calibrated.
        """
        if isinstance(structures, Atoms):
            return self.predict([structures], uncertainty=uncertainty)[0]
        frames = structures if isinstance(structures, Frames) else Frames.from_ase(list(structures))
        with_sigmas = self.gives_uncertainty(uncertainty)
        energy, forces, stress = self._predicted(frames, batch_size, stress=gives_virial(self.potential))
        found = [
            Prediction(float(energy[k]), None if forces is None else forces[k, :n].copy(), stress=stress.get(k))
            for k, n in enumerate(frames.n_atoms)
        ]
        if not with_sigmas:
            return found
        _, sigmas = self.sigmas(ArrayDataset(frames), batch_size=batch_size, progress=progress)
        return [replace(p, **vars(sigmas.structure(k))) for k, p in enumerate(found)]

    def sigmas(
        self,
        data: Dataset,
        *,
        batch_size: int = BATCH_SIZE,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Predictions, DataSigmas]:
        """The exact uncertainties of a data set, raw beside its errors, and calibrated; warns of compositions that
        were not calibrated on.

        Raises:
            UncertaintyError: the run is not calibrated, or its model has changed since.
        """
        calibration = self.calibration
        compositions = {formula(z[z > 0]) for b in iterate_blocks(data) for z in np.unique(b.numbers, axis=0)}
        if text := calibration.unlike(*sorted(compositions)):
            warnings.warn(text, stacklevel=3)
        raw = predict_raw(
            self.potential,
            calibration.calibrated.layer,
            data,
            batch_size=min(batch_size, EXACT_BATCH),
            device=self.device,
            progress=progress,
        )
        return raw, DataSigmas.of(calibration, raw)

    def predict_frames(self, frames: Frames, *, batch_size: int = BATCH_SIZE) -> tuple[np.ndarray, np.ndarray | None]:
        """(B,) energies in eV and (B, n, 3) forces in eV/Angstrom (None if energies alone were learned), float64."""
        return self._predicted(frames, batch_size, stress=False)[:2]

    def _predicted(
        self, frames: Frames, batch_size: int, *, stress: bool
    ) -> tuple[np.ndarray, np.ndarray | None, dict[int, np.ndarray]]:
        """And the stress of those frames that are periodic in all directions, by row, if it is wanted."""
        if not len(frames):
            raise DataError("no structures to predict")
        if text := unheard_state(self.potential, frames):
            warnings.warn(text, stacklevel=4)
        energy = np.empty(len(frames))
        forces: np.ndarray | None = np.zeros(frames.positions.shape) if self.has_forces else None
        stresses: dict[int, np.ndarray] = {}
        for index in sorted_batches(frames.n_atoms, batch_size):
            part = frames.take(index)
            batch = Batch.from_frames(part, self.potential.cutoff, dtype=self.potential.dtype, device=self.device)
            solid = part.pbc.all(1) if stress else np.zeros(len(part), bool)
            out = evaluated(self.potential, batch, virial=bool(solid.any()))
            energy[index] = out["energy"].cpu().numpy()
            stresses |= {int(index[k]): stress_of(out, int(k), part.cell[k]) for k in np.flatnonzero(solid)}
            if forces is not None:
                real = np.arange(forces.shape[1]) < part.n_atoms[:, None]
                block = np.zeros((len(index), forces.shape[1], 3))
                block[real] = torch.cat(batch.unpad(out["forces"])).double().cpu().numpy()
                forces[index] = block
        return energy, forces, stresses
