"""Time steps for R replicas at once: velocity Verlet, BAOAB Langevin, Nose-Hoover chains.

Each takes a state and *proposes* the next one; nothing is changed, so that a guard can refuse a proposal before it is
taken as true. Forces come from any function of positions (:data:`ForceFunction`): an analytic potential, or a model.

Symbols used by the equations below:

| symbol | variable | unit |
|---|---|---|
| x, v | ``positions``, ``velocities`` | Angstrom, Angstrom/fs |
| F, U | ``forces``, ``energy`` | eV/Angstrom, eV |
| 1/m | ``system.acceleration``, zero for fixed atoms | Angstrom/fs^2 per eV/Angstrom |
| h | ``dt`` | fs |
| k T | ``KB * temperature`` | eV |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.data.system import System
from equimd.errors import ConfigError
from equimd.md.ensembles import TAU, check_scale
from equimd.md.noise import BathNoise
from equimd.md.state import State, kinetic_change, kinetic_energy
from equimd.units import KB

#: positions (A, n, 3) Angstrom float64 -> energy (A,) eV, forces (A, n, 3) eV/Angstrom, and optionally a dict of
#: further (A, ...) tensors, which travel with the state as ``State.extras``. Rows do not depend on each other.
ForceFunction = Callable[[Tensor], tuple[Any, ...]]


def evaluate(forces: ForceFunction, positions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Energy (A,) and forces (A, n, 3) in float64, and the extras."""
    energy, force, *rest = forces(positions)
    if energy.dtype is not torch.float64 or force.dtype is not torch.float64:
        energy, force = energy.double(), force.double()
    return energy, force, rest[0] if rest else {}


class Integrator(ABC):
    """One way to make a time step.

    Attributes:
        dt: time step, fs.
        bath: whether momentum is exchanged with a bath, so that f = 3n (see ``degrees_of_freedom``).
    """

    name: str
    bath = False

    def __init__(self, dt: float) -> None:
        if not (math.isfinite(dt) and dt != 0.0):
            raise ConfigError(f"time step of {dt} fs", hint="0.5 fs suits molecules with hydrogen")
        self.dt = dt
        self._halves: tuple[System, Tensor] | None = None

    def _half(self, system: System) -> Tensor:
        """(n, 1): half a step over the mass; kept, since every step needs it."""
        if self._halves is None or self._halves[0] is not system:
            self._halves = (system, (0.5 * self.dt) * system.acceleration)
        return self._halves[1]

    def begin(self, system: System, state: State) -> State:
        """The state with the variables of the bath, at zero; a state that has them already is returned as it is."""
        names = self.bath_shapes()
        if names.keys() == state.bath.keys():
            return state
        count, like = len(state), state.energy
        return replace(state, bath={k: like.new_zeros(count, *shape) for k, shape in names.items()})

    def settings(self) -> dict[str, float | int | str]:
        """What makes it this integrator, for a restart file and for the record."""
        return {"ensemble": self.name, "dt_fs": self.dt}

    def bath_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes (per replica) of the variables this integrator keeps in ``State.bath``."""
        return {}

    @abstractmethod
    def propose(self, system: System, state: State, forces: ForceFunction) -> State:
        """The state one step later, for all replicas of ``state``."""

    def conserved(self, system: System, state: State) -> Tensor:
        """(R,) eV: the quantity that exact integration would keep."""
        return kinetic_energy(system, state.velocities) + state.energy


class VelocityVerlet(Integrator):
    """Constant energy (Swope et al. 1982).

        v(t + h/2) = v(t) + h/2 F(x(t)) / m
        x(t + h)   = x(t) + h v(t + h/2)
        v(t + h)   = v(t + h/2) + h/2 F(x(t + h)) / m

    Symplectic and time-reversible (a negative ``dt`` goes back); conserved up to O(h^2): E = E_kin + U.
    """

    name = "nve"

    def propose(self, system: System, state: State, forces: ForceFunction) -> State:
        half = self._half(system)
        v = torch.addcmul(state.velocities, half, state.forces)
        x = torch.add(state.positions, v, alpha=self.dt)
        energy, force, extras = evaluate(forces, x)
        return state.moved(x, torch.addcmul(v, half, force), force, energy, state.bath, extras)


class Langevin(Integrator):
    """Constant temperature by friction and noise: BAOAB (Leimkuhler and Matthews 2013).

        B: v <- v + h/2 F / m
        A: x <- x + h/2 v
        O: v <- c v + sqrt((1 - c^2) k T / m) xi,   c = exp(-gamma h),  xi standard normal
        A, B as before, B with the new force

    Positions of a harmonic oscillator are sampled exactly whatever h; at the end of a step <v^2> is k T / m times
    (1 - w^2 h^2 / 4). Conserved up to O(h^2): E_kin + U - Q, with the heat Q = sum over the O steps of the change of
    E_kin (Bussi and Parrinello 2007), ``bath["heat"]``.

    Args:
        dt: fs.
        temperature: K.
        friction: gamma, 1/fs; 0.01 is 10/ps.
        seed: of the noise; replica k has its own stream.
    """

    name = "langevin"
    bath = True

    def __init__(self, dt: float, temperature: float, friction: float = 0.01, seed: int = 0) -> None:
        super().__init__(dt)
        _check_bath(dt, temperature)
        if not (math.isfinite(friction) and friction >= 0):
            raise ConfigError(f"friction of {friction} / fs", hint="0.01 / fs, that is 10 / ps, is usual")
        self.temperature, self.friction = temperature, friction
        self.noise = BathNoise(seed)
        self._drag = math.exp(-friction * dt)
        self._widths: tuple[System, Tensor] | None = None

    def settings(self) -> dict[str, float | int | str]:
        more = {"temperature_K": self.temperature, "friction_per_fs": self.friction, "seed": self.noise.seed}
        return {**super().settings(), **more}

    def bath_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"heat": ()}

    def propose(self, system: System, state: State, forces: ForceFunction) -> State:
        half, width = self._half(system), self._width(system)
        v = torch.addcmul(state.velocities, half, state.forces)  # B
        x = torch.add(state.positions, v, alpha=0.5 * self.dt)  # A
        kicked = torch.addcmul(self._drag * v, width, self.noise(state.replicas, state.step, v))  # O
        # of the difference of squares, so that a small change of a large energy keeps its digits
        heat = state.bath["heat"] + kinetic_change(system, v, kicked)
        x = x.add_(kicked, alpha=0.5 * self.dt)  # A
        energy, force, extras = evaluate(forces, x)
        kicked = kicked.addcmul_(half, force)  # B
        return state.moved(x, kicked, force, energy, {"heat": heat}, extras)

    def _width(self, system: System) -> Tensor:
        """(n, 1) Angstrom/fs: the spread of the velocities that one O step adds."""
        if self._widths is None or self._widths[0] is not system:
            # -expm1 keeps the digits of 1 - c^2 at low friction
            variance = -math.expm1(-2.0 * self.friction * self.dt) * KB * self.temperature * system.acceleration
            self._widths = (system, variance.sqrt())
        return self._widths[1]

    def conserved(self, system: System, state: State) -> Tensor:
        return super().conserved(system, state) - state.bath["heat"]


#: Suzuki-Yoshida weights of the thermostat's half step by number of parts (Yoshida 1990; Suzuki 1991).
_C3 = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
_C5 = 1.0 / (4.0 - 4.0 ** (1.0 / 3.0))
SUZUKI_YOSHIDA = {1: (1.0,), 3: (_C3, 1.0 - 2.0 * _C3, _C3), 5: (_C5, _C5, 1.0 - 4.0 * _C5, _C5, _C5)}


class NoseHoover(Integrator):
    """Constant temperature, deterministic: Nose-Hoover chains (Martyna, Klein and Tuckerman 1992; Martyna et al. 1996).

    M thermostats with positions eta_j, velocities u_j = d eta_j / dt and masses Q_1 = f k T tau^2, Q_j = k T tau^2:

        dv/dt   = F / m - u_1 v
        du_1/dt = (2 E_kin - f k T) / Q_1 - u_2 u_1
        du_j/dt = (Q_{j-1} u_{j-1}^2 - k T) / Q_j - u_{j+1} u_j

    A half step of the chain, a velocity Verlet step, a half step of the chain. Conserved up to O(h^2):
    E_kin + U + sum_j Q_j u_j^2 / 2 + f k T eta_1 + k T sum_{j>1} eta_j.

    | symbol | variable | unit |
    |---|---|---|
    | eta_j, u_j | ``bath["eta"]``, ``bath["eta_velocity"]`` (R, M) | 1, 1/fs |
    | Q_j | ``mass`` (M,) | eV fs^2 |

    Args:
        dt: fs.
        temperature: K.
        dof: f, from :func:`~equimd.md.state.degrees_of_freedom`.
        tau: period that the masses are made for, fs, ten time steps at least; of the order of the slower vibrations.
        chain: M.
        order: number of Suzuki-Yoshida parts of a half step, 1, 3 or 5.
    """

    name = "nose-hoover"

    def __init__(
        self, dt: float, temperature: float, dof: int, *, tau: float = 50.0, chain: int = 3, order: int = 1
    ) -> None:
        super().__init__(dt)
        _check_bath(dt, temperature)
        if dof < 1 or chain < 1 or order not in SUZUKI_YOSHIDA or not tau > 0:
            raise ConfigError(
                f"Nose-Hoover chain with {dof} degrees of freedom, {chain} thermostats, tau {tau} fs, order {order}",
                hint="one or more degrees of freedom and thermostats, tau > 0, order 1, 3 or 5",
            )
        check_scale(dt, {TAU: tau})
        self.temperature, self.dof, self.tau, self.chain, self.order = temperature, dof, tau, chain, order
        kt = KB * temperature
        # the energies of the thermostats: f k T for the first, k T for the others
        self.target = [dof * kt] + [kt] * (chain - 1)
        self.mass = [energy * tau * tau for energy in self.target]

    def settings(self) -> dict[str, float | int | str]:
        more = {"temperature_K": self.temperature, "dof": self.dof, "tau_fs": self.tau}
        return {**super().settings(), **more, "chain": self.chain, "order": self.order}

    def bath_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"eta": (self.chain,), "eta_velocity": (self.chain,)}

    def propose(self, system: System, state: State, forces: ForceFunction) -> State:
        half = self._half(system)
        bath = state.bath
        eta, u, scale = self._half_step(kinetic_energy(system, state.velocities), bath["eta"], bath["eta_velocity"])
        v = torch.addcmul(state.velocities * scale, half, state.forces)
        x = torch.add(state.positions, v, alpha=self.dt)
        energy, force, extras = evaluate(forces, x)
        v = v.addcmul_(half, force)
        eta, u, scale = self._half_step(kinetic_energy(system, v), eta, u)
        return state.moved(x, v.mul_(scale), force, energy, {"eta": eta, "eta_velocity": u}, extras)

    def _half_step(self, kinetic: Tensor, eta: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Half a step of the chain: new eta and u (R, M), and the factor (R, 1, 1) on the velocities of the atoms.

        Dozens of operations on R numbers each: in numpy, whose calls cost a fraction of torch's.
        """
        u = list(velocity.T.cpu().numpy())
        last = self.chain - 1
        twice = 2.0 * kinetic.cpu().numpy()
        moved, scale = eta.T.cpu().numpy(), np.ones_like(twice)

        def kick(j: int, quarter: float) -> None:
            """u_j under the force of the link before it and the drag of the link after it, a quarter step."""
            drive = twice if j == 0 else self.mass[j - 1] * (u[j - 1] * u[j - 1])
            kick = (drive - self.target[j]) * (quarter / self.mass[j])
            if j == last:
                u[j] = u[j] + kick
                return
            drag = np.exp(-0.5 * quarter * u[j + 1])
            u[j] = (u[j] * drag + kick) * drag

        for weight in SUZUKI_YOSHIDA[self.order]:
            part = 0.5 * self.dt * weight
            for j in range(last, -1, -1):
                kick(j, 0.5 * part)
            slow = np.exp(-part * u[0])
            scale = scale * slow
            twice = twice * (slow * slow)
            moved = moved + part * np.array(u)
            for j in range(self.chain):
                kick(j, 0.5 * part)
        new = torch.from_numpy(np.concatenate([moved, np.array(u), scale[None]])).to(eta.device)
        return new[: self.chain].T.contiguous(), new[self.chain : -1].T.contiguous(), new[-1, :, None, None]

    def conserved(self, system: System, state: State) -> Tensor:
        u, eta = state.bath["eta_velocity"], state.bath["eta"]
        mass, target = u.new_tensor(self.mass), u.new_tensor(self.target)
        return super().conserved(system, state) + (0.5 * mass * u.square() + target * eta).sum(-1)


def _check_bath(dt: float, temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature of {temperature} K", hint="a bath needs a temperature above zero")
    if dt <= 0:
        raise ConfigError(f"time step of {dt} fs", hint="with a bath, time goes forward")
