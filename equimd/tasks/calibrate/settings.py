"""Settings of a calibration: the options of ``equimd calibrate``, one for one."""

from __future__ import annotations

import math
import re
from typing import Literal

from pydantic import Field, model_validator

from equimd.errors import ConfigError
from equimd.md.ensembles import DEFAULT, FRICTION, TAU, EnsembleName, EnsembleSettings

#: Independent starts for the halt threshold: 9 would do for a rate of 10 %, 19 narrow the interval of the realised one.
DEFAULT_BLOCKS = 19
#: Of frames whose largest force error the error bound holds.
ERROR_COVERAGE = 0.9


class CalibrationSettings(EnsembleSettings):
    """Rates, and the dynamics they are for.

    Raises:
        ConfigError: a value out of its range.
        UncertaintyError: rates outside 0..1.
    """

    name: str | None = Field(
        None, description="of the calibration among those of the run; by default its state point, as 300K-langevin-5ps"
    )
    false_alarm_rate: float = Field(0.01, description="share of ordinary frames that may be flagged")
    false_halt_rate: float = Field(0.1, description="probability that an ordinary run is halted")
    run_length: int = Field(10_000, description="steps of such a run")
    temperature: float | None = Field(None, description="K; by default what the data say they were sampled at")
    ensemble: EnsembleName = Field(DEFAULT, description="of such a run")
    friction: float = Field(FRICTION.default, description="of langevin, 1/fs")
    tau: float = Field(TAU.default, description=TAU.description)
    dt: float = Field(0.5, description="time step, fs")
    score_every: int = Field(1, description="steps between two scores")
    blocks: int = Field(DEFAULT_BLOCKS, ge=1, description="independent runs of the model for the halt threshold")
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="compile the potential for these runs; auto: where it was compiled before or pays back"
    )
    halt: bool = Field(True, description="whether to calibrate a halt threshold")
    posterior_frames: int = Field(
        5_000, ge=1, description="training frames for the posterior: all up to so many, else so many at random"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the parts, the starts, velocities and noise")

    @model_validator(mode="after")
    def _possible(self) -> CalibrationSettings:
        from equimd.guard.thresholds import needed

        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", self.name):
            raise ConfigError(f"'{self.name}' as the name of a calibration", hint="letters, digits and . _ + -")
        needed(self.false_alarm_rate)
        least = needed(self.false_halt_rate)
        for name, value, positive in (
            ("run length", self.run_length, True),
            ("scoring interval", self.score_every, True),
            ("time step", self.dt, True),
            ("friction", self.friction, False),
            ("period", self.tau, True),
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
        return self
