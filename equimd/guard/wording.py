"""What the thresholds of a calibration mean, in sentences for someone who runs molecular dynamics."""

from __future__ import annotations

from equimd.guard.saved import Calibration
from equimd.guard.thresholds import ErrorBound, FlagThreshold, HaltThreshold


def percent(share: float) -> str:
    """A share as per cent, two significant digits."""
    return f"{100 * share:.2g} %"


def _range(interval: tuple[float, float]) -> str:
    low, high = (f"{100 * x:.2g}" for x in interval)
    return f"{low} and {high} %"


def halt_meaning(halt: HaltThreshold, calibration: Calibration) -> str:
    """What it means that a run halts."""
    point = calibration.state_point
    length = f"{halt.run_length} steps ({halt.run_length * point.dt_fs / 1000:.3g} ps)"
    return (
        f"A run halts before the first frame in which the expected error of the force on some atom exceeds "
        f"{halt.value:.3g} eV/A; in a run of {length} of {_names(calibration)} at {point.temperature_K:g} K this "
        f"happens by mistake with a probability of at most {percent(halt.alpha)} (for this calibration between "
        f"{_range(halt.interval)}, from {halt.n_blocks} independent runs)."
    )


def flag_meaning(flag: FlagThreshold, calibration: Calibration) -> str:
    """What it means that a frame is flagged."""
    return (
        f"A frame is flagged when the expected error of the force on some atom exceeds {flag.value:.3g} eV/A; of "
        f"frames like the calibration frames ({_names(calibration)}) this happens to {percent(flag.alpha)} (for this "
        f"calibration between {_range(flag.interval)}, from {flag.n_frames} frames worth {flag.n_effective:.0f} "
        "independent ones)."
    )


def error_meaning(error: ErrorBound) -> str:
    """What the error bound says."""
    return (
        f"The largest force error on an atom is below {error.multiplier:.3g} times the largest sigma in "
        f"{percent(error.coverage)} of such frames; away from them there is no such bound."
    )


def meaning(calibration: Calibration) -> str:
    """One sentence: what the default threshold of a run means, that of halts, or of flags where there is none."""
    if calibration.halt is not None:
        return halt_meaning(calibration.halt, calibration)
    return flag_meaning(calibration.flag, calibration)


def _names(calibration: Calibration) -> str:
    names = calibration.compositions
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} molecules"
