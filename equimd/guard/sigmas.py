"""What a calibration says of structures: sigmas of energies and forces, and whether a frame would be flagged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from equimd.guard.calibration import Calibration
from equimd.shown import Shown, digits
from equimd.tables import Table
from equimd.uq import metrics
from equimd.uq.predict import Predictions

RESAMPLES = 100  # of the bootstrap intervals


@dataclass(frozen=True, repr=False)
class StructureSigma(Shown):
    """Calibrated uncertainty of one structure of n atoms.

    Attributes:
        energy_std: eV.
        forces_std: (n, 3) of the components, eV/Angstrom: sqrt of the diagonal of each covariance; turns with the axes.
        atom_forces_std: (n,) sqrt(trace C_i), eV/Angstrom: no rotation changes it.
        score: what the decision of molecular dynamics gives the structure, eV/Angstrom: the largest of
            ``atom_forces_std``, unless the screen cleared it; then the screen's estimate of that.
        screened: whether the score is the screen's.
        flagged: whether the score exceeds the flag threshold.
        atom: the least certain one, index of the largest ``atom_forces_std``.
    """

    energy_std: float
    forces_std: np.ndarray
    atom_forces_std: np.ndarray
    score: float
    screened: bool
    flagged: bool
    atom: int


@dataclass(frozen=True, repr=False)
class DataSigmas(Shown):
    """The same for N frames with M atoms in all; ``frame`` (M,) is the row of each atom's frame."""

    energy_std: np.ndarray
    forces_std: np.ndarray
    atom_forces_std: np.ndarray
    score: np.ndarray
    screened: np.ndarray
    flagged: np.ndarray
    atom: np.ndarray
    frame: np.ndarray

    @classmethod
    def of(cls, calibration: Calibration, predictions: Predictions) -> DataSigmas:
        """From raw predictions. The frame score is that of the flag decision: the screen's where the screen clears the
        frame, so that the rate of flags is the one that was calibrated."""
        calibrated, u = calibration.calibrated, predictions.distance
        energy = np.sum(calibrated.energy.variance(predictions.energy_variance, u), axis=0)
        model, noise = calibrated.forces.covariance(
            predictions.force_covariance, u[predictions.frame], predictions.numbers.astype(np.int64)
        )
        variance = np.diagonal(model, axis1=1, axis2=2) + noise[:, None]
        atoms = np.sqrt(variance.sum(1))
        decision, threshold = calibration.decision("flag")
        decided = decision.of_predictions(predictions)
        score, worst = decided.score, predictions.per_frame(atoms)[1]
        return cls(
            np.sqrt(energy), np.sqrt(variance), atoms, score, decided.quiet, score > threshold, worst, predictions.frame
        )

    def __len__(self) -> int:
        return len(self.energy_std)

    def structure(self, row: int) -> StructureSigma:
        """Frame ``row``."""
        atoms = slice(*np.searchsorted(self.frame, [row, row + 1]))
        return StructureSigma(
            float(self.energy_std[row]),
            self.forces_std[atoms].copy(),
            self.atom_forces_std[atoms].copy(),
            float(self.score[row]),
            bool(self.screened[row]),
            bool(self.flagged[row]),
            int(self.atom[row]),
        )


def summary(calibration: Calibration, predictions: Predictions, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """How well the sigmas of labelled frames match their errors; None for what has no labels.

    Returns:
        ``n_frames``; ``energy_std_meV`` and ``forces_std_meV_per_A``, root mean squares of predicted sigmas (of an
        energy, of a force component); ``energy`` and ``forces``, every metric of :mod:`equimd.uq.metrics` in eV and
        Angstrom with intervals; ``flag`` {threshold, unit, alpha, n_flagged, rate}.
    """
    sigmas, calibrated, flag = DataSigmas.of(calibration, predictions), calibration.calibrated, calibration.flag
    found: dict[str, Any] = {
        "n_frames": len(sigmas),
        "energy_std_meV": 1e3 * float(np.sqrt(np.square(sigmas.energy_std).mean())),
        "forces_std_meV_per_A": 1e3 * float(np.sqrt(np.square(sigmas.forces_std).mean())),
    }
    for name, recalibration in (("energy", calibrated.energy), ("forces", calibrated.forces)):
        labelled = np.isfinite(predictions.energy_error if name == "energy" else predictions.force_error).any()
        samples = (predictions.energies if name == "energy" else predictions.forces)() if labelled else None
        found[name] = samples and metrics.summary(recalibration.apply(samples), resamples=resamples)
    found["flag"] = {
        "threshold": flag.value,
        "unit": "eV/A",
        "alpha": flag.alpha,
        "n_flagged": int(sigmas.flagged.sum()),
        "rate": float(sigmas.flagged.mean()),
    }
    return found


#: Heads of a table of metrics, and how a value is written: regions as the share of errors in them, CRPS and the
#: predicted sigma in meV of energies and meV/Angstrom of forces.
METRICS: dict[str, tuple[str, Callable[[float], str]]] = {
    "zms": ("ZMS", "{:.2f}".format),
    **{f"coverage_{level}": (f"{level} %", lambda x: f"{100 * x:.1f} %") for level in metrics.LEVELS},
    "nll": ("NLL", "{:.2f}".format),
    "crps": ("CRPS", lambda x: digits(1e3 * x)),
    "ence": ("ENCE", "{:.3f}".format),
    "miscalibration_area": ("area", "{:.3f}".format),
    "spearman": ("rank r", "{:.2f}".format),
    "sharpness": ("sigma", lambda x: digits(1e3 * x)),
}
REGIONS = tuple(f"coverage_{level}" for level in metrics.LEVELS)


def quality(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """How well sigmas match errors: a row of ``columns``, which are names of :data:`METRICS`, for each of ``rows``."""
    shown = {name: ["" if of.get(c) is None else METRICS[c][1](of[c]) for c in columns] for name, of in rows.items()}
    return Table([[name, *cells] for name, cells in shown.items()], ["", *(METRICS[c][0] for c in columns)])


def parts(found: dict[str, Any]) -> list[Table | str]:
    """The summary as a table and a sentence."""
    rows = {name: found[name] for name in ("energy", "forces") if found[name] is not None}
    elements = (found["forces"] or {}).get("per_element") or {}
    rows |= {f"  on {symbol}": values for symbol, values in elements.items()}
    flag = found["flag"]
    return [
        f"uncertainty of {found['n_frames']:,} frames; CRPS in meV, meV/A",
        quality(rows, ("zms", *REGIONS, "nll", "crps", "ence", "spearman")),
        f"flagged: {flag['n_flagged']:,} of {found['n_frames']:,} frames ({100 * flag['rate']:.3g} %) above "
        f"{flag['threshold']:.4g} eV/A; {100 * flag['alpha']:.3g} % are, of frames like those it was calibrated on",
    ]
