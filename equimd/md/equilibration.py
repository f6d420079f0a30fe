"""Steps before step 0: a run that first comes to its temperature under a Langevin bath.

They are ordinary steps with negative numbers (guarded, restartable, with random numbers of their own), not recorded.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from equimd.data.system import System
from equimd.md.integrators import ForceFunction, Integrator, Langevin
from equimd.md.state import State, remove_momentum


class Equilibrated(Integrator):
    """``before`` for the steps below 0, then ``after``.

    At step 0 the bath variables start anew and, where ``after`` conserves them, total and angular momentum are removed.

    Args:
        steps: how many there are before step 0; a run begins at step ``-steps``.
    """

    def __init__(self, before: Langevin, after: Integrator, steps: int) -> None:
        super().__init__(after.dt)
        self.before, self.after, self.steps = before, after, steps
        self.name, self.bath, self.temperature = after.name, after.bath, before.temperature

    def settings(self) -> dict[str, float | int | str]:
        first = {f"equilibration_{key}": value for key, value in self.before.settings().items()}
        return {**self.after.settings(), "equilibration_steps": self.steps, **first}

    def _stage(self, state: State) -> Integrator:
        return self.before if state.step < 0 else self.after

    def begin(self, system: System, state: State) -> State:
        return self._stage(state).begin(system, state)

    def propose(self, system: System, state: State, forces: ForceFunction) -> State:
        new = self._stage(state).propose(system, state, forces)
        return self._switch(system, new) if state.step == -1 else new

    def _switch(self, system: System, state: State) -> State:
        velocities = state.velocities
        if not self.after.bath:
            # frames that are not finite are the guard's business, and have no inertia tensor
            finite = torch.isfinite(state.positions + velocities).all(-1).all(-1)
            velocities = velocities.clone()
            velocities[finite] = remove_momentum(system, state.positions[finite], velocities[finite])
        return self.after.begin(system, replace(state, velocities=velocities, bath={}))

    def conserved(self, system: System, state: State) -> torch.Tensor:
        return self._stage(state).conserved(system, state)
