"""A trained model for torch-sim: batches of systems, their force sigma, and a loop that retires single ones.

Systems of the same elements and cell are replicas of one structure: compiled in blocks, as in ``equimd simulate``.
torch-sim's own runners have no way to stop a system, nor do its states carry other outputs than energies and forces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_sim.models.interface import ModelInterface
from torch_sim.state import SimState

from equimd.calculators.guarded import chosen_rule
from equimd.calculators.predictor import Predictor
from equimd.data.system import System
from equimd.forces.forcefield import Compile, ForceField
from equimd.guard.flags import SuspectFrame, SuspectRecorder
from equimd.guard.judge import NOTHING, Action, Decision, Judge
from equimd.guard.limits import Limits

#: Extra output (S,): the score of each system, eV/Angstrom.
SIGMA = "force_sigma"


@dataclass
class _Replicas:
    """The systems of a state that have the same elements and cell, and the same bonds where those are watched.

    Attributes:
        systems: (A,) their indices. atoms: (A, n) the indices of their atoms.
        decision: about the positions computed last.
    """

    key: tuple[bytes, ...]
    judge: Judge
    forces: ForceField
    systems: Tensor
    atoms: Tensor
    decision: Decision = NOTHING


class TorchSimModel(ModelInterface):
    """``outputs = model(state)``: energy (S,) eV, forces (N, 3) eV/Angstrom, and force_sigma (S,) eV/Angstrom.

    The force sigma is the score of ``equimd simulate``, of a calibrated run: exact where the screen does not clear a
    system. Cells keep their shape: there is no stress.

    Args:
        model: ``equimd.load(run)``; torch-sim computes on its device.
        on_exceed: what :func:`run_guarded` does about a system that is not to be taken as true: ``halt`` or ``flag``.
        threshold: as in :class:`~equimd.calculators.guarded.CalculatorGuard`; with ``off`` there is no sigma.
        compile: as in :class:`~equimd.calculators.step.Step`.
        charge, spin: of all systems.

    Raises:
        ModelError, UncertaintyError: as of :class:`~equimd.calculators.guarded.CalculatorGuard`.
    """

    def __init__(
        self,
        model: Predictor,
        *,
        on_exceed: Action = "halt",
        threshold: str | float = "auto",
        compile: Compile = "auto",
        charge: int = 0,
        spin: int = 0,
    ) -> None:
        super().__init__()
        self._device, self._dtype = model.device, torch.float64
        self._compute_stress, self._compute_forces = False, True
        self.potential, self.compiling, self.on_exceed = model.potential, compile, on_exceed
        self.rule = chosen_rule(model, threshold)
        self._charge_spin: Any = {"charge": charge, "spin": spin}
        self._known: tuple[bytes, ...] = ()
        self._limits: Sequence[Limits | None] | None = None
        self.replicas: list[_Replicas] = []

    def forward(self, state: SimState | dict[str, Any], **_: Any) -> dict[str, Tensor]:
        """Outputs as the class has them; their order is that of the state."""
        state = SimState(**state) if isinstance(state, dict) else state
        self._prepare(state)
        positions = state.positions.detach().double()
        energy = positions.new_empty(state.n_systems)
        forces, sigma = torch.empty_like(positions), torch.full_like(energy, torch.nan)
        for part in self.replicas:
            x = positions[part.atoms]
            energy[part.systems], found, extras = part.forces(x)
            forces[part.atoms] = found
            part.decision = part.judge(x, energy[part.systems], found, extras)
            if part.decision.scores is not None:
                sigma[part.systems] = part.decision.scores
        out = {"energy": energy, "forces": forces}
        return out if self.rule is None else {**out, SIGMA: sigma}

    def watch(self, limits: Sequence[Limits] | None) -> None:
        """The physical limits of each system of the states to come; None for none."""
        self._limits, self._known = limits, ()

    def structures(self, state: SimState) -> list[System]:
        """Elements and cell of each system."""
        periodic = np.broadcast_to(np.asarray(torch.as_tensor(state.pbc).cpu()), 3).tolist()
        cells = state.cell.mT.detach().double().cpu().numpy()  # rows are lattice vectors
        numbers = state.atomic_numbers.cpu().numpy()
        parts = np.split(numbers, np.cumsum(_counts(state))[:-1])
        box = cells if any(periodic) else [None] * len(cells)
        return [System.build(z, cell=cell, pbc=periodic) for z, cell in zip(parts, box, strict=True)]

    def _prepare(self, state: SimState) -> None:
        """Sort the systems into replicas, anew where they are others than last time."""
        given = tuple(x.cpu().numpy().tobytes() for x in (state.atomic_numbers, state.system_idx, state.cell))
        if given == self._known:
            return
        before = {part.key: part for part in self.replicas}
        systems = self.structures(state)
        limits = self._limits or [None] * len(systems)
        kinds: dict[tuple[bytes, ...], list[int]] = {}
        for k, system in enumerate(systems):
            kinds.setdefault(_key(system, limits[k]), []).append(k)
        ends = np.cumsum([system.n_atoms for system in systems])
        self.replicas = []
        for key, rows in kinds.items():
            system = systems[rows[0]]
            atoms = np.add.outer(ends[rows] - system.n_atoms, np.arange(system.n_atoms))
            place = torch.tensor(rows, device=state.device), torch.tensor(atoms, device=state.device)
            known = before.get(key)
            judge = self._judge(system, limits[rows[0]]) if known is None else known.judge
            forces = self._field(judge, system) if known is None else known.forces
            self.replicas.append(_Replicas(key, judge, forces, *place))
        self._known = given

    def _judge(self, system: System, limits: Limits | None) -> Judge:
        return Judge.of(self.potential, system, self.rule, self.on_exceed, limits=limits, **self._charge_spin)

    def _field(self, judge: Judge, system: System) -> ForceField:
        return ForceField(self.potential, system, judge=judge, compile=self.compiling, **self._charge_spin)


def _key(system: System, limits: Limits | None) -> tuple[bytes, ...]:
    """What replicas share."""
    cell = b"" if system.cell is None else system.cell.numpy().tobytes()
    return system.numbers.numpy().tobytes(), cell, b"" if limits is None else limits.bonds.tobytes()


@dataclass(frozen=True)
class GuardedRun:
    """What :func:`run_guarded` did.

    Attributes:
        state: of the systems that reached the end; None if there were none.
        systems: which of the first state's systems those are.
        suspects: the refused frame of each system that was halted, and one frame of each flagged event: ``replica``
            (its index in the first state), ``step``, ``reason``, ``score``, ``threshold``, ``atoms``, ``positions``.
        last_accepted: (n, 3) Angstrom, the last good positions of each system that was halted, by its index.
    """

    state: SimState | None
    systems: list[int]
    suspects: list[SuspectFrame]
    last_accepted: dict[int, Tensor] = field(default_factory=dict)


def run_guarded(
    model: TorchSimModel, state: SimState, update: Callable[[SimState], SimState], steps: int
) -> GuardedRun:
    """Steps of an integrator of torch-sim; a system that the guard refuses is retired, the others go on.

    Args:
        state: as the integrator's own first function makes it. Its geometries are the references of the physical
            checks.
        update: the integrator's second function; it calls ``model`` once.

    Raises:
        DataError: atoms overlap in ``state``.
    """
    per_system = zip(model.structures(state), state.positions.split(_counts(state)), strict=True)
    limits = [Limits.from_reference(system, x.detach().double().cpu()) for system, x in per_system]
    systems, recorder, last = list(range(state.n_systems)), SuspectRecorder(), {}
    model.watch(limits)
    try:
        for step in range(1, steps + 1):
            before = state.positions.clone()
            state = update(state)
            gone = set()
            for part in model.replicas:
                replicas = [systems[k] for k in part.systems.tolist()]
                recorder.update(part.decision, state.positions[part.atoms], step, replicas)
                for event in part.decision.halts:
                    gone.add(int(part.systems[event.row]))
                    last[replicas[event.row]] = before[part.atoms[event.row]]
            if gone:
                kept = [k for k in range(len(systems)) if k not in gone]
                systems, limits = [systems[k] for k in kept], [limits[k] for k in kept]
                if not kept:
                    return GuardedRun(None, [], recorder.frames(), last)
                state = state[kept]
                model.watch(limits)
    finally:
        model.watch(None)
    return GuardedRun(state, systems, recorder.frames(), last)


def _counts(state: SimState) -> list[int]:
    """Atoms of each system."""
    return torch.bincount(state.system_idx).tolist()
