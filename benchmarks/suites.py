"""The benchmark suites: each is one entry of one table, read by ``equimd bench`` without importing any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from equimd.registry import Registry


@dataclass(frozen=True)
class Suite:
    """A suite writes <name>.json (:func:`equimd.benchmarks.results.merge`), <name>.md and plots <name>*.png.

    Attributes:
        title: one line, of its help.
        run: called with :class:`~equimd.benchmarks.options.Options` and ``quick``, returns the path of the table; or
            ``"module:function"``. Without it, it has options of its own in ``cli/bench.py``, or no command.
        molecules: measured where none are named; or ``"module:NAME"``.
    """

    title: str
    run: Callable[..., Path] | str | None = None
    molecules: tuple[str, ...] | str = ("ethanol",)


#: In the order of the report.
SUITES: Registry[Suite] = Registry(
    "benchmark suite",
    "SUITES",
    {
        "guard": Suite(
            "README's picture: the guard along a run at 300 K and one at 1000 K, beside the true error.",
            "equimd.benchmarks.guard.guard_suite:run",
            "equimd.benchmarks.guard.guard_suite:MOLECULES",
        ),
        "accuracy": Suite("Errors on rMD17 and other sets in a fixed training time, beside published figures."),
        "speed": Suite("Time of training and dynamics, peak memory and compile time, beside other packages."),
        "conservation": Suite(
            "Conservative against direct forces: errors, drift, net force and torque, time until unstable.",
            "equimd.benchmarks.conservation.conservation_suite:run",
            "equimd.benchmarks.conservation.conservation_suite:MOLECULES",
        ),
        "calibration": Suite(
            "How well the uncertainties are calibrated, against baselines.",
            "equimd.benchmarks.calibration.calibration_suite:run",
            "equimd.benchmarks.calibration.calibration_suite:MOLECULES",
        ),
        "detection": Suite(
            "How early and how often the guard notices what the model does not know, against baselines.",
            "equimd.benchmarks.detection.detection_suite:run",
            "equimd.benchmarks.detection.detection_suite:MOLECULES",
        ),
        "learning": Suite("Labels against error: frames chosen in several ways, with cheap labels before or without."),
        "certificates": Suite("Labels and minutes to a certificate of `equimd learn`, and what fresh runs say of it."),
        "absorbing": Suite("Labels of halted frames absorbed at once by the readout, against retraining."),
        "scale": Suite("Training on more and more structures of many sizes: first step, memory, atoms a second."),
        "engines": Suite(
            "The engines that move a model's atoms: lines to write, overhead, forces, and that the guard stops them.",
            "equimd.benchmarks.engines.engines_suite:run",
            "equimd.benchmarks.engines.engines_suite:MOLECULES",
        ),
        "search": Suite("Settings of the model and of the training beside each other."),
    },
)
