"""Settings of an evaluation: the options of ``equimd evaluate``, one for one."""

from __future__ import annotations

from pydantic import Field

from equimd.config import ReadingSettings
from equimd.tasks.keywords import InferenceSettings

UNCERTAINTY_FRAMES = 1000  # enough for the rates of a calibrated run; exact covariances are slow


class EvaluationSettings(InferenceSettings, ReadingSettings):
    """How the errors of a model are measured."""

    uncertainty_frames: int = Field(
        UNCERTAINTY_FRAMES, ge=0, description="with sigmas, at most so many, taken evenly; 0 for all"
    )
