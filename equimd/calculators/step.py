"""Energy, forces and score of one structure as fast as they can be had, judged: what the engines are made of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms

from equimd.calculators.guarded import CalculatorGuard, OnExceed
from equimd.calculators.predictor import Predictor, unheard_state
from equimd.chemistry import formula
from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.errors import DataError, GuardError
from equimd.forces.forcefield import Compile, ForceField
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.shown import Shown

WHERE = "structure of the engine"


@dataclass(frozen=True, repr=False)
class StepForces(Shown):
    """What a model says of positions of n atoms.

    Attributes:
        energy: total, eV.
        forces: (n, 3) eV/Angstrom, float64.
        score: eV/Angstrom, what is compared with the threshold; None where nothing is.
    """

    energy: float
    forces: np.ndarray
    score: float | None


class Step(Shown):
    """``found = step(positions)``: energy, forces and score of one structure, as other programs ask for them.

    Compiled, where the graph is in the cache or is to be made, as in ``equimd simulate``; judged before the caller gets
    anything. ``equimd.load(run).step(atoms)`` makes one.

    Args:
        model: with forces.
        atoms: elements, cell and boundary, charge and spin, in the order of the program that moves them; its geometry
            is the reference of the physical checks.
        on_exceed: ``halt``: raise :class:`~equimd.errors.GuardError`, and warn of flagged events; ``flag``: warn of
            each event; ``ignore``.
        threshold: as in :class:`~equimd.calculators.guarded.CalculatorGuard`.
        compile: ``on``: compiled wherever possible, which takes about a minute once for such a molecule; ``auto``: if
            the cache has it; ``off``.
        charge, spin: if ``atoms`` state none.

    Attributes:
        halt: the error of the structure that was refused last; None if there was none. Programs that keep only the text
            of an error, or nothing, leave it here.

    Raises:
        ModelError: elements or a state the model never saw, or it has no forces.
        UncertaintyError: a threshold of a run that is not calibrated.
        DataError: atoms overlap.
    """

    def __init__(
        self,
        model: Predictor,
        atoms: Atoms,
        *,
        on_exceed: OnExceed = "halt",
        threshold: str | float = "auto",
        compile: Compile = "auto",
        charge: int | None = None,
        spin: int | None = None,
    ) -> None:
        frames = Frames.from_ase([atoms], where=WHERE).with_state(charge, spin, where=WHERE)
        state: Any = {"charge": int(frames.charge[0]), "spin": int(frames.spin[0])}
        self.model = model
        self.halt: GuardError | None = None
        self.atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        self.atoms.info = {k: v for k, v in state.items() if v}
        self.system = System.build(atoms.numbers, cell=atoms.cell.array if atoms.pbc.any() else None, pbc=atoms.pbc)
        self.guard: CalculatorGuard | None = None
        self.judge: Judge | None = None
        warned = [unheard_state(model.potential, frames)]
        if on_exceed != "ignore":
            self.guard = CalculatorGuard(model, on_exceed, threshold)
            limits = Limits.from_reference(self.system, torch.from_numpy(atoms.positions.copy()))
            chosen = model.potential, self.system, self.guard.rule, self.guard.on_exceed
            self.judge = Judge.of(*chosen, limits=limits, **state)
            warned += [] if self.guard.rule is None else [model.calibration.unlike(formula(atoms.numbers))]
        self.forces = ForceField(model.potential, self.system, judge=self.judge, compile=compile, **state)
        for text in filter(None, warned):
            warnings.warn(text, stacklevel=3)

    def _shown(self) -> Mapping[str, str]:
        guard = self.guard
        found = {"structure": formula(self.atoms.numbers), "model": str(self.model.potential.description)}
        if guard is not None:
            limit = "" if guard.rule is None else f" above {guard.rule.threshold:.4g} eV/A"
            lower = None if guard.rule is None else guard.rule.flag
            found["guard"] = f"{guard.on_exceed}{limit}" + ("" if lower is None else f", flag above {lower[1]:.4g}")
        return found

    def __call__(self, positions: np.ndarray, step: int | None = None) -> StepForces:
        """Of positions (n, 3), Angstrom, which are copied.

        Args:
            step: of the program that moves the atoms, for the record.

        Raises:
            GuardError: they are not to be taken as true, with ``on_exceed="halt"``.
            DataError: other than n positions.
        """
        if np.shape(positions) != self.atoms.positions.shape:
            what = f"positions of shape {np.shape(positions)}, not of these {len(self.atoms)} atoms"
            raise DataError(what, where=WHERE, hint="the atoms and their order are those that `step` was made for")
        x = torch.from_numpy(np.array(positions, np.float64))[None]
        energy, forces, extras = self.forces(x)
        score = None
        if self.judge is not None and self.guard is not None:
            decision = self.judge(x, energy, forces, extras)
            score = None if decision.scores is None else float(decision.scores[0])
            self.atoms.positions[:] = x[0].numpy()
            try:
                self.guard.act(decision, self.atoms, step)
            except GuardError as error:
                self.halt = error
                raise
        return StepForces(float(energy[0]), forces[0].numpy(), score)
