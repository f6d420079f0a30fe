"""The state of R replicas of one molecule (or cell) of n atoms, and what is computed from it alone.

Units: Angstrom, Angstrom/fs, eV, eV/Angstrom, amu, K, fs. Everything here is float64, whatever the precision of the
model. A :class:`State` is never changed: a step makes a new one, the *proposal*, and :meth:`State.commit` takes over
those replicas of it that a guard accepted. What was refused leaves no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from equimd.data.system import System
from equimd.errors import DataError
from equimd.md.noise import Purpose, normal_block
from equimd.units import ACCELERATION, KB

#: A principal moment of inertia below this fraction of the largest one is none: the molecule is linear.
LINEAR_MOMENT = 1e-6


@dataclass(frozen=True)
class State:
    """R replicas at one time step.

    Attributes:
        positions, velocities, forces: (R, n, 3); positions are never wrapped into the cell.
        energy: (R,) potential energy, eV.
        replicas: number of each replica: which random stream is its own, however many run beside it.
        active: whether each replica still moves; a halted one keeps its last good frame.
        step: steps the active replicas have made.
        bath: variables of the thermostat, each (R, ...).
        extras: what else the force function returned for these positions, each (R, ...).
    """

    positions: Tensor
    velocities: Tensor
    forces: Tensor
    energy: Tensor
    replicas: tuple[int, ...]
    active: tuple[bool, ...]
    step: int = 0
    bath: dict[str, Tensor] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.replicas)

    @property
    def rows(self) -> Tensor | None:
        """Rows of the active replicas; None where all are."""
        if all(self.active):
            return None
        rows = [k for k, active in enumerate(self.active) if active]
        return torch.tensor(rows, dtype=torch.int64, device=self.positions.device)

    def take(self, rows: Tensor) -> State:
        """A state of some of the replicas."""
        kept = rows.tolist()
        return State(
            self.positions[rows],
            self.velocities[rows],
            self.forces[rows],
            self.energy[rows],
            tuple(self.replicas[k] for k in kept),
            tuple(self.active[k] for k in kept),
            self.step,
            {k: v[rows] for k, v in self.bath.items()},
            {k: v[rows] for k, v in self.extras.items()},
        )

    def moving(self) -> State:
        """A state of the active replicas alone."""
        rows = self.rows
        return self if rows is None else self.take(rows)

    def commit(self, proposal: State, accept: Tensor | None = None) -> State:
        """Take over what was accepted of a proposal for the active replicas; the others halt where they stand.

        Args:
            proposal: a later state of :meth:`moving`.
            accept: (number of active replicas,) bool; None accepts all.
        """
        rows = self.rows
        if rows is None and accept is None:
            return proposal
        if rows is None:
            rows = torch.arange(len(self), device=self.positions.device)
        accept = torch.ones_like(rows, dtype=torch.bool) if accept is None else accept
        taken = rows[accept]

        def merged(old: Tensor, new: Tensor) -> Tensor:
            out = old.clone()
            out[taken] = new[accept]
            return out

        def merged_all(old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
            blank = {k: v.new_zeros(len(self), *v.shape[1:]) for k, v in new.items() if k not in old}
            return {k: merged({**blank, **old}[k], v) for k, v in new.items()}

        moving = set(taken.tolist())
        return State(
            merged(self.positions, proposal.positions),
            merged(self.velocities, proposal.velocities),
            merged(self.forces, proposal.forces),
            merged(self.energy, proposal.energy),
            self.replicas,
            tuple(k in moving for k in range(len(self))),
            proposal.step,
            merged_all(self.bath, proposal.bath),
            merged_all(self.extras, proposal.extras),
        )

    def moved(
        self,
        positions: Tensor,
        velocities: Tensor,
        forces: Tensor,
        energy: Tensor,
        bath: dict[str, Tensor],
        extras: dict[str, Tensor],
    ) -> State:
        """The same replicas one step later."""
        replicas, active = self.replicas, self.active
        return State(positions, velocities, forces, energy, replicas, active, self.step + 1, bath, extras)

    def with_velocities(self, velocities: Tensor) -> State:
        """The same state with other velocities (R, n, 3) Angstrom/fs."""
        return replace(self, velocities=velocities)


def kinetic_energy(system: System, velocities: Tensor) -> Tensor:
    """(..., n, 3) Angstrom/fs -> (...) eV: sum_i m_i v_i^2 / 2."""
    return (velocities.square() * system.inertial_masses).sum((-2, -1))


def kinetic_change(system: System, before: Tensor, after: Tensor) -> Tensor:
    """Two sets of velocities (..., n, 3) Angstrom/fs -> (...) eV: sum_i m_i (v'_i - v_i).(v'_i + v_i) / 2."""
    return ((after - before) * (after + before) * system.inertial_masses).sum((-2, -1))


def temperature(system: System, velocities: Tensor, dof: int) -> Tensor:
    """(..., n, 3) Angstrom/fs -> (...) K: 2 E_kin / (f k_B); zero for a system without degrees of freedom."""
    return 2.0 * kinetic_energy(system, velocities) / (max(dof, 1) * KB)


def inertia(system: System, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (R, n, 3) relative to the centre of mass, and the inertia tensors (R, 3, 3), amu Angstrom^2."""
    m = system.masses[:, None]
    r = positions - (m * positions).sum(-2, keepdim=True) / m.sum()
    second = torch.einsum("n,...ni,...nj->...ij", system.masses, r, r)
    trace = second.diagonal(dim1=-2, dim2=-1).sum(-1)
    return r, trace[..., None, None] * torch.eye(3, dtype=r.dtype, device=r.device) - second


def degrees_of_freedom(system: System, positions: Tensor, *, bath: bool) -> int:
    """Degrees of freedom f that share the kinetic energy f k_B T / 2.

    Args:
        positions: (n, 3), the reference geometry; says whether the molecule is linear.
        bath: whether the ensemble exchanges momentum with a bath (Langevin): then f = 3n. Otherwise the total momentum
            and, in open systems, the angular momentum are conserved and start at zero: f = 3n-3 periodic, 3n-6 open,
            3n-5 linear, 0 for one atom. Where m atoms are fixed, no momentum is conserved: f = 3(n-m).
    """
    n = system.n_atoms
    if system.fixed is not None:
        return 3 * int((~system.fixed).sum())
    if bath:
        return 3 * n
    if system.periodic:
        return 3 * n - 3
    _, tensor = inertia(system, positions)
    moments = torch.linalg.eigvalsh(tensor)
    rotations = int((moments > LINEAR_MOMENT * moments[-1].clamp(min=1e-12)).sum())
    return 3 * n - 3 - rotations


def remove_momentum(system: System, positions: Tensor, velocities: Tensor) -> Tensor:
    """Velocities (R, n, 3) without total momentum and, for open systems, without angular momentum.

    A projection orthogonal in the kinetic energy: what was Maxwell-Boltzmann before is so on the subspace that is left.
    Where atoms are fixed, only their velocities are removed.
    """
    if system.fixed is not None:
        return system.free(velocities)
    m = system.masses[:, None]
    v = velocities - (m * velocities).sum(-2, keepdim=True) / m.sum()
    if system.periodic:
        return v
    r, tensor = inertia(system, positions)
    momentum = (m * torch.linalg.cross(r, v)).sum(-2)
    # the pseudo-inverse leaves the axis of a linear molecule alone
    omega = (torch.linalg.pinv(tensor, rtol=LINEAR_MOMENT, hermitian=True) @ momentum[..., None]).squeeze(-1)
    return v - torch.linalg.cross(omega[..., None, :].expand_as(r), r)


def maxwell_boltzmann(
    system: System, positions: Tensor, temperature_K: float, *, seed: int, replicas: Sequence[int], bath: bool
) -> Tensor:
    """Velocities (R, n, 3), Angstrom/fs, from the Maxwell-Boltzmann distribution.

    Args:
        positions: (R, n, 3).
        seed, replicas: which random numbers; replica k of a batch has those it would have alone.
        bath: as in :func:`degrees_of_freedom`; without a bath, total and angular momentum are removed, so that the
            mean kinetic energy is f k_B T / 2.
    """
    shape = (system.n_atoms, 3)
    noise = np.stack([normal_block(seed, r, Purpose.VELOCITIES, 0, shape) for r in replicas])
    width = (KB * temperature_K * ACCELERATION / system.masses).sqrt()[:, None]
    v = torch.from_numpy(noise).to(positions.device) * width
    return system.free(v) if bath else remove_momentum(system, positions, v)


def initial_state(
    positions: Tensor, velocities: Tensor, energy: Tensor, forces: Tensor, replicas: Sequence[int]
) -> State:
    """Step zero of R active replicas, in float64 and in memory of its own.

    Raises:
        DataError: shapes that do not fit each other, or values that are not finite.
    """
    shape = tuple(positions.shape)
    count = len(replicas)
    if len(shape) != 3 or shape[2] != 3 or shape[0] != count or len(set(replicas)) != count:
        raise DataError(f"positions have shape {shape} for the replicas {list(replicas)}", where="molecular dynamics")
    wanted = {"velocities": (velocities, shape), "forces": (forces, shape), "energy": (energy, shape[:1])}
    for name, (value, expected) in {"positions": (positions, shape), **wanted}.items():
        if tuple(value.shape) != expected:
            raise DataError(f"{name} have shape {tuple(value.shape)}, expected {expected}", where="molecular dynamics")
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{name} of the first frame are not finite", where="molecular dynamics")
    x, v, f, e = (t.detach().to(torch.float64).clone() for t in (positions, velocities, forces, energy))
    return State(x, v, f, e, tuple(int(r) for r in replicas), (True,) * count)
