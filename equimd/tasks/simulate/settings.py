"""Settings of a simulation: the options of ``equimd simulate`` and the keys of its YAML form, one for one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from equimd.config import CHARGE, SPIN, known_key, read_config
from equimd.errors import ConfigError
from equimd.fields import WholeNumber
from equimd.md.ensembles import DEFAULT, FRICTION, TAU, EnsembleName, EnsembleSettings, further_options

DEFAULT_STEPS = 10_000
TIME_UNITS = {"fs": 1e-3, "ps": 1.0, "ns": 1e3}  # in ps
#: What may change when a run goes on: how long it is, and what is written at its end.
RESUMABLE = ("steps", "time", "extxyz")


def parse_time(value: object) -> object:
    """Picoseconds from ``20``, ``"20ps"``, ``"500 fs"`` or ``"1.5ns"``; pydantic checks anything else."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)", value.strip().lower())
    try:
        if found is None:
            raise ValueError
        return float(found[1]) * TIME_UNITS[found[2] or "ps"]
    except (KeyError, ValueError):
        raise ValueError(f"'{value}' is not a time; write 20 or 20ps, 500fs or 1ns") from None


Picoseconds = Annotated[float, BeforeValidator(parse_time)]


def _threshold_text(value: object) -> object:
    """YAML reads ``off`` as false and ``0.15`` as a number."""
    if value is False:
        return "off"
    return str(value) if isinstance(value, int | float) and value is not True else value


Threshold = Annotated[str, BeforeValidator(_threshold_text)]


class SimulationSettings(EnsembleSettings):
    """Every setting of a simulation and its default."""

    run: str = Field("", description="run folder of the model")
    structure: str = Field("", description="start geometry: a file, one of its frames: FILE@-1, or a name: ethanol")
    ensemble: EnsembleName = Field(
        DEFAULT, description="constant temperature with noise or without, or constant energy"
    )
    temperature: float = Field(300.0, ge=0, allow_inf_nan=False, description="K: of the bath and of start velocities")
    dt: float = Field(0.5, gt=0, allow_inf_nan=False, description="time step, fs")
    friction: float = FRICTION.setting()
    tau: float = TAU.setting()
    steps: int | None = Field(None, ge=0, description=f"steps of the run ({DEFAULT_STEPS} where --time is not given)")
    time: Picoseconds | None = Field(
        None, ge=0, allow_inf_nan=False, description="length of the run, ps, or 500fs, 1ns"
    )
    replicas: int = Field(1, ge=1, le=100_000, description="copies that run at once, each with its own random numbers")
    first_replica: int = Field(0, ge=0, description="number of the first replica: 4 runs of 8 make the same 32 as one")
    seed: int = Field(0, ge=0, lt=2**63, description="of the start velocities and the noise")
    charge: WholeNumber = CHARGE
    spin: WholeNumber = SPIN
    relax: bool = Field(False, description="go to the nearest energy minimum first")
    equilibrate: Picoseconds = Field(
        0.0, ge=0, allow_inf_nan=False, description="ps under a langevin bath before the run; guarded, not recorded"
    )
    save_every: int = Field(10, ge=1, description="steps between saved frames")
    sigma_every: int = Field(
        0, ge=0, description="every so many saved frames with the exact sigma of each atom, to colour by; 0: as needed"
    )
    extxyz: bool = Field(False, description="write the trajectories as extended XYZ too, at the end")
    uq_threshold: Threshold | None = Field(
        None,
        description="auto (flags above the calibrated flag threshold and halts above the halt threshold), halt, flag "
        "(one of them), off (physical checks alone), or a force error such as 0.15eV/A; without it auto if the run is "
        "calibrated",
    )
    calibration: str | None = Field(
        None, description="name of the run's calibration that thresholds are from; by default the one that fits"
    )
    on_exceed: Literal["halt", "flag"] | None = Field(
        None, description="what to do above the threshold, if not what it was calibrated for; flag: nothing halts"
    )
    dtype: Literal["float32", "float64"] | None = Field(None, description="precision of the model, if not its own")
    device: str = Field("auto", description="cpu, cuda, cuda:1, or auto")
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="compile the potential; auto: where it was compiled before or pays back"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; by default 1 for small molecules, else all cores")

    @model_validator(mode="after")
    def _length(self) -> SimulationSettings:
        if self.steps is not None and self.time is not None:
            raise ValueError("steps and time both say how long: give one")
        return self

    @property
    def n_steps(self) -> int:
        """Length of the run in steps."""
        if self.time is not None:
            return round(self.time * 1000.0 / self.dt)
        return DEFAULT_STEPS if self.steps is None else self.steps

    @property
    def equilibration_steps(self) -> int:
        """Steps before step 0."""
        return round(self.equilibrate * 1000.0 / self.dt)


def parse_settings(
    values: Mapping[str, Any], *, where: str | None = None, base: SimulationSettings | None = None
) -> SimulationSettings:
    """Settings from a flat mapping of keys (hyphens or underscores), over those of ``base``.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named) or a value out of its range.
    """
    hint = "`equimd simulate --template` lists all keys"
    known = SimulationSettings.known_fields()
    given = {known_key(key, known, where=where, hint=hint): value for key, value in values.items()}
    for name, other in (("steps", "time"), ("time", "steps")):
        if given.get(name) is not None and other not in given:
            given[other] = None  # the new length replaces the old one, however it was given
    return SimulationSettings.parse(given, where=where, base=base)


def read_settings(path: str) -> dict[str, Any]:
    """The flat mapping of a YAML settings file; `equimd simulate --template` writes one."""
    try:
        return read_config(path)
    except ConfigError as error:
        raise ConfigError(error.what, where=error.where, hint="`equimd simulate --template` prints one") from None


def settings_text(settings: SimulationSettings | None = None) -> str:
    """The settings as YAML, each with its meaning beside it; without ``settings``, the template of defaults."""
    import yaml

    settings, lines = settings or SimulationSettings(), []
    described = {key: field.description for key, field in SimulationSettings.model_fields.items()}
    described |= {key: further_options(described)[key].description for key in settings.model_extra or {}}
    for key, description in described.items():
        value = yaml.safe_dump(getattr(settings, key), default_flow_style=True, width=1000).removesuffix("\n...\n")
        lines.append(f"{f'{key}: {value}'.strip():<40}  # {description}")
    return "\n".join(lines) + "\n"
