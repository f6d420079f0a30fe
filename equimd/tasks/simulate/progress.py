"""What a person sees while a simulation runs: a live bar on a terminal, a line every tenth elsewhere; on stderr."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from equimd.md.simulation import Simulation
from equimd.md.state import temperature
from equimd.training.progress import duration

REFRESH = 0.2  # seconds between redraws of the bar
SECONDS_PER_DAY = 86400.0


class Progress:
    """Called after every step.

    Args:
        until: last step of the run.
    """

    def __init__(self, simulation: Simulation, until: int, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.first, self.until = simulation.state.step, until
        self.total = max(1, until - self.first)
        self.started = time.monotonic()
        self.moved = 0  # replica steps of this session
        self._drawn, self._tenth, self._width, self._halted = 0.0, 0, 0, len(simulation.suspects.halts)

    def __call__(self, simulation: Simulation) -> None:
        self.moved += len(simulation.moved)
        if simulation.decision.halts:
            self._tell_halts(simulation)
        now, done = time.monotonic(), simulation.state.step - self.first
        tenth = 10 * done // self.total
        if self.live and now - self._drawn > REFRESH:
            self._drawn = now
            self._write(self._text(simulation, done)[: shutil.get_terminal_size().columns - 1])
        elif not self.live and tenth > self._tenth:
            self._tenth = tenth
            print(self._text(simulation, done), file=self.stream, flush=True)

    def _tell_halts(self, simulation: Simulation) -> None:
        halts = simulation.suspects.halts
        for halt in halts[self._halted :]:
            self.line(f"replica {halt.replica} halted at step {halt.step}: {halt.reason}")
        self._halted = len(halts)

    def _text(self, simulation: Simulation, done: int) -> str:
        state, integrator = simulation.state, simulation.integrator
        elapsed = time.monotonic() - self.started
        dt = integrator.dt
        parts = [f"{state.step * dt / 1000:.3f} of {self.until * dt / 1000:g} ps"]
        if state.step < 0:
            parts[0] = f"equilibrating, {-state.step * dt / 1000:.3f} ps left"
        if self.live:
            filled = round(20 * done / self.total)
            parts[0] += f" [{'#' * filled}{'-' * (20 - filled)}]"
        parts.append(f"{1e-6 * done * dt * SECONDS_PER_DAY / max(elapsed, 1e-9):.3g} ns/day")
        moving = state.moving()
        if len(moving):
            mean = float(temperature(simulation.system, moving.velocities, simulation.dof).mean())
            parts.append(f"T {mean:.0f} K")
        rule, scores = simulation.guard.rule, simulation.decision.scores
        if rule is not None and scores is not None:
            parts.append(f"sigma {float(scores.max()):.3f} of {rule.threshold:.3f} {rule.unit}")
            if rule.action == "flag":
                parts.append(f"{simulation.suspects.n_flagged} flagged")
        if len(state) > 1:
            parts.append(f"{len(moving)} of {len(state)} replicas")
        left = elapsed * (self.total - done) / max(done, 1)
        parts.append(f"{duration(left)} left" if done < self.total else duration(elapsed))
        return " | ".join(parts)

    def rates(self, simulation: Simulation) -> tuple[float | None, float | None]:
        """ns/day of one replica and of all together, of this session; None if it made no step."""
        done, elapsed = simulation.state.step - self.first, time.monotonic() - self.started
        if not done:
            return None, None
        per_step = 1e-6 * simulation.integrator.dt * SECONDS_PER_DAY / max(elapsed, 1e-9)
        return done * per_step, self.moved * per_step

    def _write(self, text: str) -> None:
        self.stream.write("\r" + text.ljust(self._width))
        self.stream.flush()
        self._width = len(text)

    def line(self, text: str) -> None:
        """Print a line beside the bar."""
        self.close()
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self.live and self._width:
            self._write("")
            self.stream.write("\r")
            self._width = 0
