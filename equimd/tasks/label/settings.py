"""Settings of labels: the options of ``equimd data label``, one for one."""

from __future__ import annotations

from pydantic import Field

from equimd.config import StateSettings
from equimd.tasks.keywords import CALCULATORS


class LabelSettings(StateSettings):
    """What computes the labels."""

    calculator: str = Field("tblite", description=CALCULATORS)
    keep_going: bool = Field(False, description="leave out frames the calculator fails on")
