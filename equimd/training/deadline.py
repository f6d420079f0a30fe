"""When a training is to end because its job does: that of Slurm, or a wall time that is stated."""

from __future__ import annotations

import os
import time

from equimd.config import TrainConfig
from equimd.errors import ConfigError
from equimd.progress import duration

SLURM_END = "SLURM_JOB_END_TIME"  # seconds since 1970, set by Slurm 22.05 and later


def slurm_end() -> float | None:
    """When the job's time limit is, seconds since 1970; None outside Slurm."""
    try:
        return float(os.environ[SLURM_END])
    except (KeyError, ValueError):
        return None


def stop_time(config: TrainConfig, began: float) -> float | None:
    """When to stop, seconds since 1970; None where nothing asks for it.

    Args:
        began: when the command did.

    Raises:
        ConfigError: it is to stop before an end that is not known, or that is sooner than that.
    """
    ends = [] if config.max_wall_time is None else [began + config.max_wall_time]
    if config.stop_before is None:
        return ends[0] if ends else None
    ends += [end for end in [slurm_end()] if end is not None]
    where = f"--stop-before {duration(config.stop_before)}"
    if not ends:
        hint = f"in a job of Slurm, {SLURM_END} says it; else state --max-wall-time 24h, the time of the whole job"
        raise ConfigError("when the job ends is not known", where=where, hint=hint)
    if min(ends) - config.stop_before <= time.time():
        left = duration(min(ends) - time.time())
        raise ConfigError(f"the job ends in {left}: nothing would be trained", where=where, hint="a longer job")
    return min(ends) - config.stop_before
