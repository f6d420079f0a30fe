"""The ways to an uncertainty that the calibration suite compares: each is one entry of one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from equimd.benchmarks.calibration.baselines import distance, ensemble
from equimd.benchmarks.calibration.baselines.method import Baseline, Known
from equimd.registry import Registry


@dataclass(frozen=True)
class ComparedUncertainty:
    """One way to an uncertainty.

    Attributes:
        label: in tables and plots. colour: of its curve, as matplotlib names it.
        fit: what makes the method; it returns None where it lacks something, such as members. Without it, the method is
            one of ``last_layer``, which are fitted together.
    """

    label: str
    colour: str
    fit: Callable[[Known], Baseline | None] | None = None


#: In the order of the tables, by name in rows (an ensemble of four: ``ensemble-4``).
METHODS: Registry[ComparedUncertainty] = Registry(
    "uncertainty method",
    "METHODS",
    {
        "last-layer": ComparedUncertainty("features of all layers", "tab:blue"),
        "last-layer-only": ComparedUncertainty("of the last layer alone", "tab:purple"),
        "llpr": ComparedUncertainty("of the last layer, energies only (LLPR)", "tab:cyan"),
        "ensemble": ComparedUncertainty(
            "ensemble", "tab:orange", lambda k: ensemble.fit(k.members) if len(k.members) > 1 else None
        ),
        "mahalanobis": ComparedUncertainty(
            "feature distance", "tab:green", lambda k: distance.mahalanobis(k.model, k.layer.distance)
        ),
        "gmm": ComparedUncertainty(
            "atomic features, a Gaussian an element", "tab:red", lambda k: distance.gaussians(k.model, k.train)
        ),
    },
)
