"""What is told while a simulation runs: time, speed, temperature, sigma and replicas."""

from __future__ import annotations

import time

from equimd.md.simulation import Simulation
from equimd.md.state import temperature
from equimd.progress import Callback, Teller, duration, time_left

SECONDS_PER_DAY = 86400.0


class SimulationProgress(Teller):
    """Called after every step.

    Args:
        until: last step of the run.
    """

    def __init__(self, simulation: Simulation, until: int, callback: Callback | None = None) -> None:
        super().__init__(callback, "simulation")
        self.first, self.until = simulation.state.step, until
        self.total = max(1, until - self.first)
        self.started = time.monotonic()
        self.moved = 0  # replica steps of this session
        self._halted = len(simulation.suspects.halts)

    def __call__(self, simulation: Simulation) -> None:
        self.moved += len(simulation.moved)
        if simulation.decision.halts:
            self._tell_halts(simulation)
        share = (simulation.state.step - self.first) / self.total
        if self.due(share):
            self._tell_step(simulation, share)

    def _tell_halts(self, simulation: Simulation) -> None:
        halts = simulation.suspects.halts
        for halt in halts[self._halted :]:
            text = f"replica {halt.replica} halted at step {halt.step}: {halt.reason}"
            self.line(text, values={"replica": halt.replica, "step": halt.step})
        self._halted = len(halts)

    def _tell_step(self, simulation: Simulation, share: float) -> None:
        state, dt = simulation.state, simulation.integrator.dt
        elapsed = time.monotonic() - self.started
        head = f"{state.step * dt / 1000:.3f} of {self.until * dt / 1000:g} ps"
        if state.step < 0:
            head = f"equilibrating, {-state.step * dt / 1000:.3f} ps left"
        parts, values = [], {"step": state.step, "time_ps": state.step * dt / 1000}
        judge, scores = simulation.judge, simulation.decision.scores
        if judge.threshold is not None and scores is not None:
            values["score_eV_per_A"] = float(scores.max())
            parts.append(f"sigma {values['score_eV_per_A']:.3f} of {judge.threshold:.3f} {judge.unit}")
            if judge.action == "flag" or judge.flag is not None:
                parts.append(f"{simulation.suspects.n_flagged} flagged")
        moving = state.moving()
        if len(moving):
            mean = float(temperature(simulation.system, moving.velocities, simulation.dof).mean())
            parts.append(f"T {mean:.0f} K")
            values["temperature_K"] = mean
        if len(state) > 1:
            parts.append(f"{len(moving)} of {len(state)} replicas")
        parts.append(f"{1e-6 * share * self.total * dt * SECONDS_PER_DAY / max(elapsed, 1e-9):.3g} ns/day")
        left = time_left(elapsed, share) if share < 1.0 else duration(elapsed)
        self.step(share, head, *parts, left=left, values=values)

    def rates(self, simulation: Simulation) -> tuple[float | None, float | None]:
        """ns/day of one replica and of all together, of this session; None if it made no step."""
        done, elapsed = simulation.state.step - self.first, time.monotonic() - self.started
        if not done:
            return None, None
        per_step = 1e-6 * simulation.integrator.dt * SECONDS_PER_DAY / max(elapsed, 1e-9)
        return done * per_step, self.moved * per_step
