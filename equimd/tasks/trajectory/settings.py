"""Settings of ``equimd traj analyse``: its options, one for one."""

from __future__ import annotations

from pydantic import Field

from equimd.config import Settings


class AnalysisSettings(Settings):
    """Which frames are analysed, and with which errors."""

    replica: int | None = Field(None, ge=0, description="number of one replica of a simulation; by default all")
    uncertainty: bool = Field(True, description="errors of the model too, where its run is calibrated")
    run: str | None = Field(None, description="run folder of the model, if it is not where the simulation found it")
    interval: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="fs between frames, of files that do not say their times"
    )
