"""Settings of ``equimd report``: its options, one for one."""

from __future__ import annotations

from pydantic import Field

from equimd.config import Settings


class ReportSettings(Settings):
    """How much is computed for a page, and where."""

    test_frames: int = Field(1000, ge=0, description="test frames predicted for the parity plots, at most; 0: none")
    frames: int = Field(150, ge=2, description="frames of each simulation in 3D, at most; flagged ones come on top")
    device: str = Field("auto", description="cpu, cuda or auto")
    threads: int | None = Field(None, ge=1, description="CPU threads; by default all cores")
