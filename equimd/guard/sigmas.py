"""What a calibration says of structures: sigmas of energies and forces, and whether a frame would be flagged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from equimd.guard.calibration import Calibration
from equimd.shown import Shown
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


def table(found: dict[str, Any]) -> str:
    """The summary as text."""
    columns = ("zms", *(f"coverage_{level}" for level in metrics.LEVELS), "nll", "crps", "ence", "spearman")
    heads = ("ZMS", *(f"in {level} %" for level in metrics.LEVELS), "NLL", "CRPS", "ENCE", "rank r")
    lines = [f"uncertainty of {found['n_frames']} frames" + "".join(f"{h:>9}" for h in heads)]
    width = len(lines[0]) - 9 * len(heads)

    def row(name: str, values: dict[str, Any]) -> str:
        cells = ("" if values.get(c) is None else f"{values[c]:.3g}" for c in columns)
        return f"{name:<{width}}" + "".join(f"{cell:>9}" for cell in cells).rstrip()

    for name in ("energy", "forces"):
        if found[name] is not None:
            lines.append(row(name, found[name]))
    for symbol, values in ((found["forces"] or {}).get("per_element") or {}).items():
        lines.append(row(f"  on {symbol}", values))
    flag = found["flag"]
    lines.append(
        f"flagged: {flag['n_flagged']} of {found['n_frames']} frames ({100 * flag['rate']:.3g} %) above "
        f"{flag['threshold']:.4g} eV/A; {100 * flag['alpha']:.3g} % are, of frames like those it was calibrated on"
    )
    return "\n".join(lines)
