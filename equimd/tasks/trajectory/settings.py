"""Settings of ``equimd traj analyse``: its options, one for one."""

from __future__ import annotations

from pydantic import Field

from equimd.config import Settings


class AnalysisSettings(Settings):
    """Which frames are analysed."""

    replica: int | None = Field(None, ge=0, description="number of one replica of a simulation; by default all")
    interval: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="fs between frames, of files that do not say their times"
    )
