"""What a calibration is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from equimd.errors import ConfigError
from equimd.guard.thresholds import needed

Ensemble = Literal["langevin", "nose-hoover", "nve"]

#: Independent starts for the halt threshold: 9 would do for a rate of 10 %, 19 narrow the interval of the realised one.
DEFAULT_BLOCKS = 19
#: Of frames whose largest force error the error bound holds.
ERROR_COVERAGE = 0.9


@dataclass(frozen=True)
class CalibrationSettings:
    """Rates, and the dynamics they are for.

    Attributes:
        false_alarm_rate: share of in-domain frames that the flag threshold may flag.
        false_halt_rate: probability that the halt threshold stops a run of ``run_length`` steps.
        temperature: K; None takes what the data say.
        friction: of langevin, 1/fs. tau: of nose-hoover, fs. dt: fs. score_every: steps between two scores.
        blocks: independent runs of the model.
        halt: False leaves the halt threshold out.
        seed: of the partition, the starts, velocities and noise.
    """

    false_alarm_rate: float = 0.01
    false_halt_rate: float = 0.1
    run_length: int = 10_000
    temperature: float | None = None
    ensemble: Ensemble = "langevin"
    friction: float = 0.01
    tau: float = 50.0
    dt: float = 0.5
    score_every: int = 1
    blocks: int = DEFAULT_BLOCKS
    halt: bool = True
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be done, before anything is computed.

        Raises:
            ConfigError: a value out of its range.
            UncertaintyError: rates outside 0..1.
        """
        needed(self.false_alarm_rate)
        least = needed(self.false_halt_rate)
        for name, value, positive in (
            ("run length", self.run_length, True),
            ("scoring interval", self.score_every, True),
            ("time step", self.dt, True),
            ("friction", self.friction, False),
            ("temperature", self.temperature, True),
        ):
            if value is not None and not (math.isfinite(value) and (value > 0 or (value == 0 and not positive))):
                raise ConfigError(f"a {name} of {value:g}")
        if self.score_every > self.run_length:
            raise ConfigError(f"runs of {self.run_length} steps, scored every {self.score_every}")
        if self.halt and self.blocks < least:
            raise ConfigError(
                f"{self.blocks} independent runs cannot state a false-halt rate of {self.false_halt_rate:g}: "
                f"it takes {least}, {least - self.blocks} more",
                hint=f"--blocks {least}, --false-halt-rate {1 / (self.blocks + 1):.2g}, or --no-halt",
            )
