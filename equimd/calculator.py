"""A trained model at work: predictions for structures, and an ASE calculator."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.errors import DataError, ModelError
from equimd.run import Run, write_atomic
from equimd.train.loader import sorted_batches

if TYPE_CHECKING:
    from equimd.model.potential import Potential

ENERGY_ONLY = "the model was trained on energies alone: the forces it would give are unreliable"
BATCH_SIZE = 50


@dataclass(frozen=True)
class Prediction:
    """What a model says of one structure of n atoms.

    Attributes:
        energy: total energy, eV.
        forces: (n, 3) eV/Angstrom, float64; None from a model trained on energies alone.
        energy_std, forces_std: standard deviations in the same units and shapes; None until the run is calibrated.
    """

    energy: float
    forces: np.ndarray | None
    energy_std: float | None = None
    forces_std: np.ndarray | None = None


class LoadedModel:
    """A model ready for use; ``equimd.load`` makes one.

    Args:
        potential: the model; it is put in evaluation mode on ``device``.
        device: where it computes.
        run: the run it comes from, if any.
    """

    def __init__(self, potential: Potential, *, device: str | torch.device = "cpu", run: Run | None = None) -> None:
        self.device = torch.device(device)
        self.potential = potential.to(self.device).eval()
        self.run = run

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        return self.potential.config

    @property
    def has_forces(self) -> bool:
        """Whether it gives forces: not after a training on energies alone."""
        return not self.config.energy_only

    def predict(self, structures: Atoms | Sequence[Atoms] | Frames, *, batch_size: int = BATCH_SIZE) -> Any:
        """Energies and forces.

        Args:
            structures: one ASE ``Atoms``, a sequence of them, or frames.
            batch_size: structures computed at once.

        Returns:
            A :class:`Prediction` for one ``Atoms``; else a list of them, in order.

        Raises:
            ModelError: elements the model never saw.
            DataError: no structures, or positions that are not finite.
        """
        if isinstance(structures, Atoms):
            return self.predict([structures])[0]
        frames = structures if isinstance(structures, Frames) else Frames.from_ase(list(structures))
        energy, forces = self.predict_frames(frames, batch_size=batch_size)
        return [
            Prediction(float(energy[k]), None if forces is None else forces[k, :n].copy())
            for k, n in enumerate(frames.n_atoms)
        ]

    def predict_frames(self, frames: Frames, *, batch_size: int = BATCH_SIZE) -> tuple[np.ndarray, np.ndarray | None]:
        """(B,) energies in eV and (B, n, 3) forces in eV/Angstrom (None if energies alone were learned), float64."""
        if not len(frames):
            raise DataError("no structures to predict")
        self._warn_of_charges(frames)
        energy = np.empty(len(frames))
        forces: np.ndarray | None = np.zeros(frames.positions.shape) if self.has_forces else None
        for index in sorted_batches(frames.n_atoms, batch_size):
            part = frames.take(index)
            batch = Batch.from_frames(part, self.config.cutoff, dtype=self.potential.dtype, device=self.device)
            out = self.potential(batch)
            energy[index] = out["energy"].cpu().numpy()
            if forces is not None:
                real = np.arange(forces.shape[1]) < part.n_atoms[:, None]
                block = np.zeros((len(index), forces.shape[1], 3))
                block[real] = torch.cat(batch.unpad(out["forces"])).double().cpu().numpy()
                forces[index] = block
        return energy, forces

    def _warn_of_charges(self, frames: Frames) -> None:
        if not self.config.charge_spin and len(np.unique(frames.charge_spin, axis=0)) > 1:
            warnings.warn("the structures differ in charge or spin, which this model does not see", stacklevel=3)

    def calculator(self) -> EquimdCalculator:
        """An ASE calculator of this model."""
        return EquimdCalculator(self)


def load(run: str | Path, *, which: str = "best", device: str = "cpu") -> LoadedModel:
    """The model of a run folder.

    Args:
        which: ``best`` weights by validation, or the ``last`` ones.
        device: ``cpu``, ``cuda`` ...

    Raises:
        RunError: no such run, or it is damaged or newer than this equimd.
    """
    opened = Run.open(run)
    potential, _ = opened.load_model(which)
    return LoadedModel(potential, device=device, run=opened)


def write_predictions(path: str | Path, atoms: Sequence[Atoms], predictions: Sequence[Prediction]) -> None:
    """Extended XYZ of the structures with predicted energies and forces (eV, eV/Angstrom), in ASE's usual places."""
    out = []
    for a, p in zip(atoms, predictions, strict=True):
        copy = a.copy()
        copy.set_constraint()
        labels = {"energy": p.energy} if p.forces is None else {"energy": p.energy, "forces": p.forces}
        copy.calc = SinglePointCalculator(copy, **labels)
        if p.energy_std is not None:
            copy.info["energy_std"] = p.energy_std
        if p.forces_std is not None:
            copy.arrays["forces_std"] = np.asarray(p.forces_std)
        out.append(copy)
    text = io.StringIO()
    write(text, out, format="extxyz")
    write_atomic(path, text.getvalue())


class EquimdCalculator(Calculator):
    """ASE calculator: ``atoms.calc = equimd.load("runs/ethanol").calculator()``.

    Energies in eV, forces in eV/Angstrom, both float64. It keeps its own copy of the last structure and answers again
    without computing while nothing moved; ASE's comparison of states, slower than the model for small molecules, is
    never called. Open and periodic systems; no stress.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE's own convention)
    name = "equimd"

    def __init__(self, model: LoadedModel | str | Path, *, device: str = "cpu") -> None:
        super().__init__()
        self.model = model if isinstance(model, LoadedModel) else load(model, device=device)
        self._positions: np.ndarray | None = None
        self._same: tuple[bytes, ...] = ()
        self._batch: Batch | None = None

    def _constants(self, atoms: Atoms) -> tuple[bytes, ...]:
        """What does not change from step to step: elements, cell, and the electronic state if the model sees it."""
        kept: tuple[bytes, ...] = (atoms.numbers.tobytes(), atoms.cell.array.tobytes(), atoms.pbc.tobytes())
        if self.model.config.charge_spin:
            spin = atoms.info.get("spin", atoms.info.get("multiplicity", 0))
            kept += (repr((atoms.info.get("charge", 0), spin)).encode(),)
        return kept

    def calculation_required(self, atoms: Atoms, properties: Sequence[str]) -> bool:
        """Whether ``atoms`` differ from the last structure computed."""
        if self._positions is None or self._positions.shape != atoms.positions.shape:
            return True
        return not np.array_equal(self._positions, atoms.positions) or self._same != self._constants(atoms)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """ASE's question what changed: everything or nothing."""
        return list(all_changes) if self.calculation_required(atoms, ()) else []

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One property of ``atoms``, computed if they moved.

        Raises:
            PropertyNotImplementedError: a property the model does not have.
            ModelError: forces of a model trained on energies alone, or unknown elements.
        """
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(f"equimd does not compute '{name}'")
        if name == "forces" and not self.model.has_forces:
            raise ModelError(ENERGY_ONLY, hint="train with a forces weight")
        if atoms is not None and self.calculation_required(atoms, [name]):
            if not allow_calculation:
                return None
            self.calculate(atoms)
        if name not in self.results:
            raise PropertyNotImplementedError(f"'{name}' was not computed: give atoms")
        result = self.results[name]
        return result.copy() if isinstance(result, np.ndarray) else result

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute energy and forces of ``atoms`` and keep them in ``results``."""
        if atoms is None:
            raise ModelError("the calculator was asked without atoms")
        self.results = {}
        self._positions = None
        constants = self._constants(atoms)
        out = self.model.potential(self._batch_of(atoms, constants))
        energy = float(out["energy"][0])
        results: dict[str, Any] = {"energy": energy, "free_energy": energy}
        if self.model.has_forces:
            results["forces"] = out["forces"].double().cpu().numpy()
        self.atoms = atoms  # ASE reads it back in places; not a copy, since nothing here compares with it
        self._positions, self._same, self.results = atoms.positions.copy(), constants, results

    def _batch_of(self, atoms: Atoms, constants: tuple[bytes, ...]) -> Batch:
        """Tensors of ``atoms``; for small open molecules only the positions are new."""
        potential = self.model.potential
        if self._batch is not None and constants == self._same and self._batch.num_slots:
            if not np.isfinite(atoms.positions).all():
                raise DataError("positions are NaN or infinite", where="ASE calculator")
            positions = torch.from_numpy(atoms.positions).to(self.model.device, potential.dtype)
            return replace(self._batch, positions=positions)
        frames = Frames.from_ase([atoms], where="ASE calculator")
        self._batch = Batch.from_frames(
            frames, self.model.config.cutoff, dtype=potential.dtype, device=self.model.device
        )
        return self._batch
