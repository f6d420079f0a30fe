"""ASE calculator of a trained model: energies, forces, and the uncertainties of a calibrated run."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
    external_calculators,
    register_calculator_class,
)
from ase.outputs import Properties

from equimd.calculators.guarded import CalculatorGuard, OnExceed
from equimd.calculators.predictor import Predictor, Wanted, evaluated, stress_of, unheard_state
from equimd.calculators.results import SIGMAS, Outputs, Results, StepSigma
from equimd.chemistry import formula
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.data.state import read_state, whole_number
from equimd.data.system import System
from equimd.errors import DataError, GuardError, ModelError
from equimd.forces.forcefield import Compile, ForceField
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.guard.score import StepDecision, StepScore
from equimd.model.interface import Evaluation, gives_virial

NO_STRESS = "stress takes forces that are the energy's gradient: a conservative model, trained on forces"
ENERGY_ONLY = "the model was trained on energies alone: the forces it would give are unreliable"
WHERE = "ASE calculator"


class _Lock:
    """One thread at a time; a copy of the calculator has its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[_Lock], tuple[()]]:
        return _Lock, ()


class EquimdCalculator(Calculator):
    """ASE calculator: ``atoms.calc = equimd.load("runs/ethanol").calculator()``.

    Energies in eV, forces in eV/Angstrom, both float64. It keeps its own copy of the last structure and answers again
    without computing while nothing moved; ASE's comparison of states, slower than the model for small molecules, is
    never called. Threads may share it: it computes for one at a time.

    Stress (eV/Angstrom^3, ASE's order and sign) of structures with a cell, from conservative models: so cells relax by
    ASE's filters. It costs nothing until it is asked for, and from then on comes with the forces, in one pass. That of
    a slab is per volume of the cell as it stands, vacuum included.

    A calibrated run gives uncertainties: ``get_property("energy_std", atoms)`` (eV; nearly free), ``"forces_std"``
    (n, 3) and ``"atom_forces_std"`` (n,) (eV/Angstrom; exact, which for a conservative model costs tens of calls of
    energy and forces), and :meth:`uncertainty`, the decision of molecular dynamics.

    Args:
        uncertainty: ``auto``, when one of those properties is asked for, and from then on in ``results`` until the
            atoms move; True, with every calculation; False, never.
        on_exceed: what to do about a structure that is not to be taken as true, because its score exceeds the
            threshold or its atoms fused or flew apart: ``ignore`` it; ``flag`` it, with a warning for each event; or
            ``halt``: raise :class:`~equimd.errors.GuardError` before the caller gets its energy and forces, and warn
            of what is above the flag threshold alone.
        threshold: for the other two, as in :class:`~equimd.calculators.guarded.CalculatorGuard`.
        compile: for dynamics, as in :class:`~equimd.calculators.step.Step`, which agrees to rounding; ``off``, the
            default, computes as single structures are.
        charge, spin: total charge, and multiplicity 2S+1, of structures whose ``info`` states none.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress", *SIGMAS]  # noqa: RUF012 (ASE's own convention)
    name = "equimd"

    def __init__(
        self,
        model: Predictor | str | Path,
        *,
        device: str = "cpu",
        uncertainty: Wanted = "auto",
        on_exceed: OnExceed = "ignore",
        threshold: str | float = "auto",
        compile: Compile = "off",
        charge: int | None = None,
        spin: int | None = None,
    ) -> None:
        self._lock = _Lock()
        super().__init__()
        self.charge = None if charge is None else whole_number("charge", charge, WHERE)
        self.spin = None if spin is None else whole_number("spin", spin, WHERE)
        self.model = model if isinstance(model, Predictor) else Predictor.open(model, device=device)
        self.compiling: Compile = compile if self.model.has_forces else "off"
        chosen = {"uncertainty": uncertainty, "on_exceed": on_exceed, "threshold": threshold, "compile": compile}
        where = {"device": str(self.model.device), "charge": self.charge, "spin": self.spin}
        self.parameters.update(run=self.model.run and str(self.model.run.path), **chosen, **where)
        self.wanted = uncertainty
        self.with_stress = False
        if not gives_virial(self.model.potential):
            self.implemented_properties = [p for p in self.implemented_properties if p != "stress"]
        if uncertainty is True:
            self.model.gives_uncertainty(True)
        self.results: Results = Results()
        self._features: torch.Tensor | None = None
        self._current: Batch | None = None
        self._warned: set[str] = set()
        self._positions: np.ndarray | None = None
        self._same: tuple[bytes, ...] = ()
        self._batch: Batch | None = None
        self.guard: CalculatorGuard | None = None
        if on_exceed != "ignore":
            self.guard = CalculatorGuard(self.model, on_exceed, threshold, uncertainty=uncertainty)
        self._judge: tuple[tuple[bytes, ...], Judge] | None = None
        self._forces: tuple[tuple[bytes, ...], ForceField] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies look for the compiled graph themselves."""
        return {**self.__dict__, "_forces": None}

    def _constants(self, atoms: Atoms) -> tuple[bytes, ...]:
        """What does not change from step to step: elements, cell, and the electronic state."""
        cell = atoms.cell.array.tobytes() if atoms.pbc.any() else b""  # which means nothing to an open molecule
        kept = (atoms.numbers.tobytes(), cell, atoms.pbc.tobytes())
        return (*kept, repr(read_state(atoms.info, where=WHERE)).encode()) if atoms.info else kept

    def reset(self) -> None:
        """Forget the last structure."""
        super().reset()
        self.results, self.with_stress = Results(), False
        self._positions, self._current, self._features = None, None, None

    def calculation_required(self, atoms: Atoms, properties: Sequence[str]) -> bool:
        """Whether ``atoms`` differ from the last structure computed, or one of ``properties`` was not."""
        return self._moved(atoms) or any(name not in self.results for name in properties)

    def calculate_properties(self, atoms: Atoms, properties: Sequence[str]) -> Properties:
        """What ``atoms.get_properties`` gives."""
        with self._lock:
            for name in properties:
                self.get_property(name, atoms)
            return self.export_properties()

    def export_properties(self) -> Properties:
        """What was computed, uncertainties too."""
        return Outputs({**self.results, **self.results.sigmas})

    def _moved(self, atoms: Atoms) -> bool:
        if self._positions is None or self._positions.shape != atoms.positions.shape:
            return True
        return not np.array_equal(self._positions, atoms.positions) or self._same != self._constants(atoms)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """ASE's question what changed: everything or nothing."""
        return list(all_changes) if self._moved(atoms) else []

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One property of ``atoms``, computed if they moved.

        Raises:
            PropertyNotImplementedError: a property the model does not have.
            ModelError: forces of a model trained on energies alone, or unknown elements.
            UncertaintyError: an uncertainty of a run that is not calibrated, or has changed since.
        """
        if name not in self.implemented_properties or (name in SIGMAS and self.wanted is False):
            why = f": {NO_STRESS}" if name == "stress" else ""
            raise PropertyNotImplementedError(f"equimd does not compute '{name}'{why}")
        if name == "stress" and atoms is not None and not (atoms.pbc.any() and atoms.cell.volume):
            raise PropertyNotImplementedError("no stress: the structure is not periodic, or its cell has no volume")
        if name == "forces" and not self.model.has_forces:
            raise ModelError(ENERGY_ONLY, hint="train with a forces weight")
        with self._lock:
            if atoms is not None and self._moved(atoms):
                if not allow_calculation:
                    return None
                self.calculate(atoms, [name])
            elif name not in self.results and self._current is not None and allow_calculation:
                if name == "stress" and self.atoms is not None:
                    self._add_stress(evaluated(self.model.potential, self._current, virial=True), self.atoms)
                elif name in SIGMAS:
                    self._add_sigmas([name])
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
        """Compute energy and forces of ``atoms``, and those uncertainties that are among ``properties``.

        Raises:
            GuardError: they are not to be taken as true, with ``on_exceed="halt"``.
        """
        if atoms is None:
            raise ModelError("the calculator was asked without atoms")
        with self._lock:
            self._calculate(atoms, properties)

    def _calculate(self, atoms: Atoms, properties: Sequence[str]) -> None:
        self.results = Results()
        self._positions = None
        constants = self._constants(atoms)
        batch = self._batch_of(atoms, constants)
        judge = self._judge_of(atoms, constants, batch)
        self.with_stress |= "stress" in properties
        virial = self.with_stress and "stress" in self.implemented_properties and bool(atoms.cell.volume)
        if self.compiling == "off" or virial:
            out = evaluated(self.model.potential, batch, virial=virial)
            energy, features, known = float(out["energy"][0]), out["features"], {"features": out["features"]}
            forces = out["forces"].double().cpu().numpy() if self.model.has_forces else None
        else:
            found = self._forces_of(atoms, constants, batch, judge)(torch.from_numpy(atoms.positions.copy())[None])
            energy, forces, known = float(found[0][0]), found[1][0].numpy(), found[2]
            features = known["features"].to(self.model.device)
        results = Results(energy=energy, free_energy=energy)
        if forces is not None:
            results["forces"] = forces
        self.atoms = atoms  # ASE reads it back in places; not a copy, since nothing here compares with it
        self._positions, self._same, self.results = atoms.positions.copy(), constants, results
        self._current, self._features = batch, features
        if virial:
            self._add_stress(out, atoms)
        if self.wanted is True or set(SIGMAS) & set(properties):
            self._add_sigmas(SIGMAS if self.wanted is True else properties)
        if self.guard is not None and judge is not None:
            decision = judge(atoms.positions, energy, results["forces"], {k: v[0] for k, v in known.items()})
            try:
                self.guard.act(decision, atoms)
            except GuardError:
                self._positions, self.results = None, Results()  # asked again, it is judged again
                raise

    def uncertainty(self, atoms: Atoms, rule: tuple[StepDecision, float] | None = None) -> StepSigma:
        """The decision about ``atoms``, computed if they moved: the screen, and only where that does not clear them
        the exact force sigmas.

        Args:
            rule: decision and threshold, as ``calibration.decision("halt")`` or ``calibration.error_decision(0.15)``
                of the model give them; by default those of the flag threshold.

        Raises:
            UncertaintyError: the run is not calibrated, or has changed since.
        """
        decision, threshold = rule or self.model.calibration.decision("flag")
        with self._lock:
            energy_std = float(self.get_property("energy_std", atoms))
            batch, features = self._calculated()
        system, state = _structure(atoms, batch)
        scores, sigmas = StepScore(decision, self.model.potential, system, **state)(
            torch.from_numpy(atoms.positions.copy())[None], {"features": features}
        )
        score, sigma = float(scores[0]), None if sigmas is None else sigmas[0].numpy()
        atom = None if sigma is None else int(sigma.argmax())
        return StepSigma(energy_std, score, threshold, not score <= threshold, sigma, atom)

    def _judge_of(self, atoms: Atoms, constants: tuple[bytes, ...], batch: Batch) -> Judge | None:
        """The judge of this molecule or cell, whose first structure is the reference of the physical checks, also while
        the cell changes little by little; None if nothing is judged."""
        guard = self.guard
        if guard is None:
            return None
        if self._judge is None or self._judge[0] != constants:
            system, state = _structure(atoms, batch)
            moved = self._judge is not None and _moved_cell(self._judge[0], constants)
            if moved and self._judge is not None and self._judge[1].limits is not None:
                limits = replace(self._judge[1].limits, system=system)
            else:
                limits = Limits.from_reference(system, torch.from_numpy(atoms.positions.copy()))
                guard.last_accepted = None
            judge = Judge.of(self.model.potential, system, guard.rule, guard.on_exceed, limits=limits, **state)
            if guard.rule is not None:
                self._warn_unlike(atoms.numbers)
            self._judge = constants, judge
        return self._judge[1]

    def _forces_of(self, atoms: Atoms, constants: tuple[bytes, ...], batch: Batch, judge: Judge | None) -> ForceField:
        """What computes this molecule or cell fast."""
        if self._forces is None or self._forces[0] != constants:
            system, state = _structure(atoms, batch)
            made = ForceField(self.model.potential, system, judge=judge, features=True, compile=self.compiling, **state)
            self._forces = constants, made
        return self._forces[1]

    def _calculated(self) -> tuple[Batch, torch.Tensor]:
        """The last structure computed, and its pooled features."""
        if self._current is None or self._features is None:
            raise ModelError("nothing was computed: give atoms")
        return self._current, self._features

    def _add_stress(self, out: Evaluation, atoms: Atoms) -> None:
        """Stress of the last structure into ``results``; the next ones come with theirs."""
        self.with_stress, self.results["stress"] = True, stress_of(out, 0, atoms.cell.array)

    def _add_sigmas(self, names: Sequence[str]) -> None:
        """Uncertainties of the last structure into ``results``; the forces' only if they are among ``names``."""
        calibration, (batch, features) = self.model.calibration, self._calculated()
        calibrated = calibration.calibrated
        self._warn_unlike(batch.atomic_numbers.cpu().numpy())
        if {"forces_std", "atom_forces_std"} & set(names):
            found = calibrated(self.model.potential, batch)
            self.results.sigmas |= {"forces_std": found.component_std, "atom_forces_std": found.force_std}
        v = calibrated.layer.energy.variance(features).cpu().numpy()
        u = calibrated.layer.distance(features, batch.n_atoms).cpu().numpy()
        self.results.sigmas["energy_std"] = float(np.sqrt(np.sum(calibrated.energy.variance(v, u))))

    def _warn_unlike(self, numbers: np.ndarray) -> None:
        """Once of each composition that was not calibrated on."""
        self._warn_once(self.model.calibration.unlike(formula(numbers)))

    def _warn_once(self, text: str | None) -> None:
        if text and text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, stacklevel=5)

    def _batch_of(self, atoms: Atoms, constants: tuple[bytes, ...]) -> Batch:
        """Tensors of ``atoms``; for small open molecules only the positions are new."""
        potential = self.model.potential
        if self._batch is not None and constants == self._same and self._batch.num_slots:
            if not np.isfinite(atoms.positions).all():
                raise DataError("positions are NaN or infinite", where=WHERE)
            positions = torch.from_numpy(atoms.positions).to(self.model.device, potential.dtype)
            return replace(self._batch, positions=positions)
        frames = Frames.from_ase([atoms], where=WHERE).with_state(self.charge, self.spin, where=WHERE)
        self._warn_once(unheard_state(potential, frames))
        self._batch = Batch.from_frames(frames, potential.cutoff, dtype=potential.dtype, device=self.model.device)
        return self._batch


def _moved_cell(before: tuple[bytes, ...], now: tuple[bytes, ...]) -> bool:
    """Whether structures of these constants differ in nothing but a cell that was strained by less than a tenth."""
    if (before[0], before[2:]) != (now[0], now[2:]) or not before[1]:
        return False
    old, new = (np.frombuffer(c[1]).reshape(3, 3) for c in (before, now))
    if not np.linalg.det(old):
        return False
    return float(np.abs(np.linalg.solve(old, new) - np.eye(3)).max()) < 0.1


def _structure(atoms: Atoms, batch: Batch) -> tuple[System, dict[str, Any]]:
    """What does not change while ``atoms`` move, and their charge and spin as the model sees them."""
    system = System.build(atoms.numbers, cell=atoms.cell.array if atoms.pbc.any() else None, pbc=atoms.pbc)
    return system, {"charge": int(batch.charge[0]), "spin": int(batch.spin[0])}


if EquimdCalculator.name not in external_calculators:
    register_calculator_class(EquimdCalculator.name, EquimdCalculator)
