"""Settings of made frames: the options of ``equimd data generate``, one for one."""

from __future__ import annotations

from pydantic import ConfigDict, Field, model_validator

from equimd.config import Settings
from equimd.errors import ConfigError
from equimd.md.ensembles import FRICTION, check_scale
from equimd.tasks.keywords import CALCULATORS


class GenerationSettings(Settings):
    """Which molecule, and the dynamics that samples it. Masses do not change the distribution of positions.

    Raises:
        ConfigError: a value out of its range, or intervals that are not whole numbers of time steps.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    molecule: str = Field("", description="a structure file, or a name ASE knows: ethanol, CH3CH2OH, H2O ...")
    temperature: float = Field(300.0, description="K")
    frames: int = Field(1000, description="labelled frames, over all trajectories")
    trajectories: int = Field(4, description="independent trajectories")
    interval: float = Field(100.0, description="time between frames, fs")
    time_step: float = Field(1.0, description="time step, fs")
    equilibration: float = Field(2000.0, description="start of each trajectory that is thrown away, fs")
    friction: float = Field(0.01, description="friction of the Langevin thermostat, 1/fs")
    seed: int = Field(0, ge=0, lt=2**63, description="same seed, same frames")
    calculator: str = Field("tblite", description=CALCULATORS)
    charge: int = Field(0, description="total charge, e; 0: what the structure states")
    spin: int = Field(0, description="multiplicity 2S+1; 0: what the structure states, else the lowest possible")
    torsion_interval: float = Field(
        0.0, description="time between Monte Carlo turns of a single bond, fs; 0: no turns, MD alone"
    )
    hydrogen_mass: float = Field(0.0, description="mass of hydrogen in the MD, u: 5 allows steps of 2.5 fs; 0: its own")

    @model_validator(mode="after")
    def _possible(self) -> GenerationSettings:
        for name in ("temperature", "frames", "trajectories", "interval", "time_step", "friction"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name.replace('_', '-')} must be above zero, not {getattr(self, name)}")
        for name in ("equilibration", "torsion_interval", "hydrogen_mass"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name.replace('_', ' ')} must not be negative, it is {getattr(self, name)}")
        check_scale(self.time_step, {FRICTION: self.friction}, self.temperature)
        if self.frames < self.trajectories:
            raise ConfigError(f"{self.frames} frames cannot come from {self.trajectories} trajectories")
        for option, time in (("interval", self.interval), ("torsion-interval", self.torsion_interval)):
            steps = max(round(time / self.time_step), 1)
            if time and abs(time / self.time_step - steps) > 1e-6:
                raise ConfigError(
                    f"the {option} {time} fs is not a whole number of {self.time_step} fs steps",
                    hint=f"--{option} {steps * self.time_step:g}",
                )
        return self

    @property
    def stride(self) -> int:
        """Steps between saved frames."""
        return round(self.interval / self.time_step)

    def frames_of(self, trajectory: int) -> int:
        """How many frames one trajectory gives: as even as it goes."""
        return self.frames // self.trajectories + (trajectory < self.frames % self.trajectories)
