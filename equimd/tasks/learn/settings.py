"""Settings of ``equimd learn``: its options and the keys of its YAML form, one for one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from equimd.errors import ConfigError
from equimd.fields import Files, Seconds
from equimd.md.ensembles import FRICTION, check_scale
from equimd.tasks.audit.settings import AskSettings, ClaimSettings

#: The hottest temperature it explores at: this, or 1.5 times the target where that is more.
HOT, HOTTER = 600.0, 1.5
SMALL_BUDGET = 5400.0  # seconds in which the small preset gets farther than the default one


class LearnSettings(ClaimSettings, AskSettings):
    """What is learned, what is to be certified, and what it may cost.

    Raises:
        ConfigError: a value out of its range, or settings that contradict each other.
    """

    molecule: str = Field("", description="a structure file, a name ASE knows such as ethanol, or SMILES")
    calculator: str = Field("gfn2", description="reference method: gfn2, gfn1, or MODULE:CLASS of an ASE calculator")
    cheap: str = Field(
        "auto",
        description="method of the frames it starts from: gfn2, gfn1, MODULE:CLASS, or none; auto: gfn2, and gfn1 "
        "where gfn2 is the reference",
    )
    data: Files = Field(
        (), description="frames labelled by the reference method before: trained on, and counted as labels"
    )
    charge: int = Field(0, ge=-20, le=20, description="total charge, e")
    spin: int = Field(0, ge=0, le=20, description="multiplicity 2S+1; 0 is the lowest possible")
    temperature: float = Field(300.0, gt=0, allow_inf_nan=False, description="K: what the certificate is for")
    explore_to: float | None = Field(
        None, gt=0, allow_inf_nan=False,
        description="the hottest temperature it explores at, K; by default 600, or 1.5 times the target if more",
    )  # fmt: skip
    run_length: int = Field(10_000, ge=1, description="steps of the runs that the certificate is for")
    dt: float = Field(0.5, gt=0, allow_inf_nan=False, description="their time step, fs")
    friction: float = Field(0.01, gt=0, allow_inf_nan=False, description="their friction (Langevin), 1/fs")
    labels: int = Field(500, ge=1, description="calls of the reference method, at most, those for the audit included")
    max_time: Seconds = Field(7200.0, gt=0, description="all of it together, such as 45m or 2h")
    preset: Literal["small", "default", "accurate"] | None = Field(
        None, description="size of the model; by default small for less than 90 minutes"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="compile the training step and the potential; auto: where it pays back"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of everything that is drawn")

    @model_validator(mode="after")
    def _possible(self) -> LearnSettings:
        check_scale(self.dt, {FRICTION: self.friction}, self.temperature)
        if self.explore_to is not None and self.explore_to < self.temperature:
            raise ConfigError(
                f"explore-to = {self.explore_to:g} K is below the temperature of {self.temperature:g} K",
                hint="leave it out, or the temperature or above",
            )
        return self

    @property
    def hottest(self) -> float:
        """K: of the exploration."""
        return max(HOT, HOTTER * self.temperature) if self.explore_to is None else self.explore_to

    @property
    def size(self) -> str:
        """The preset."""
        if self.preset is not None:
            return self.preset
        return "small" if self.max_time < SMALL_BUDGET else "default"

    @property
    def cheap_method(self) -> str | None:
        """The method of the frames to start from; None for none of them."""
        if self.cheap == "none":
            return None
        if self.cheap != "auto":
            return self.cheap
        return "gfn1" if self.calculator.strip().lower() in ("gfn2", "gfn2-xtb", "tblite") else "gfn2"
