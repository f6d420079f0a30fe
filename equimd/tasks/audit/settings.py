"""Settings of ``equimd audit``: its options, one for one."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from equimd.config import Settings, StateSettings
from equimd.errors import ConfigError
from equimd.fields import Files, Seconds


def force_error(value: object) -> object:
    """eV/Angstrom from ``0.1`` or ``0.1eV/A``; pydantic checks anything else."""
    if not isinstance(value, str):
        return value
    from equimd.guard.thresholds import parse_threshold

    found = parse_threshold(value, "error")
    if not isinstance(found, float):
        raise ConfigError(f"error '{value}' is not a force error", hint="eV/Angstrom, such as 0.1eV/A")
    return found


ForceError = Annotated[float, BeforeValidator(force_error)]


class AskSettings(Settings):
    """How the reference method is asked for labels."""

    call_limit: Seconds = Field(3600.0, gt=0, description="time that one call of the reference method may take")
    jobs: int | None = Field(None, ge=1, description="labels computed at the same time; by default as many as cores")
    executor: str = Field(
        "local", pattern=r"^(local|parsl:.+)$",
        description="where labels are computed: local, or parsl:FILE.py, a configuration of Parsl for a cluster",
    )  # fmt: skip


class ClaimSettings(Settings):
    """What is to be certified."""

    error: ForceError = Field(0.1, gt=0, allow_inf_nan=False, description="force error that makes a frame bad, eV/A")
    share: float = Field(0.05, gt=0, lt=1, description="the largest share of bad frames that is accepted")
    false_halt_rate: float = Field(0.1, gt=0, lt=1, description="probability that an ordinary run is halted, at most")


class AuditSettings(StateSettings, ClaimSettings, AskSettings):
    """A claim about a calibrated run, and what its audit may cost. The dynamics is that of the calibration."""

    starts: Files = Field((), description="structures that runs start from, each from one of them drawn at random")
    calculator: str = Field("gfn2", description="reference method: gfn2, gfn1, or MODULE:CLASS of an ASE calculator")
    calibration: str | None = Field(None, description="its name, of several that the run has; by default the first")
    labels: int = Field(200, ge=1, description="calls of the reference method, at most")
    seed: int = Field(0, ge=0, lt=2**31, description="of starts, draws, velocities and noise")
