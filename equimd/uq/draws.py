"""From an uncertain energy to uncertain averages: draws from the posterior, each with the ensemble of its own energy.

The energy is linear in the weights, so that the energies of all draws at all frames of a trajectory come from one pass
of features: ``dE_k(t) = phi_t . (w_k - w)``, w_k - w ~ N(0, Sigma). They are brought to the calibrated scale frame by
frame: multiplied by the ratio of the calibrated sigma of the frame's energy (model and noise part) to the raw one.
What all frames of a draw share, its mean, changes no average but that of the energy, and is kept apart.

A trajectory at temperature T, under the model, is one of draw k when frame t counts ``exp(-dE_k(t) / kT)`` (Torrie and
Valleau 1977). Where that leaves too few frames, the cumulant expansion takes its place (Imbalzano et al., J. Chem.
Phys. 154, 074102, 2021); with d = dE_k / kT, < > over the frames:

    <A>_k = <A> - <A d> + (<A d^2> - <A> <d^2>) / 2 + ...       d of zero mean

The first term alone is exact where A and the energies are jointly Gaussian, and the least noisy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.errors import UncertaintyError
from equimd.model.interface import Model
from equimd.shown import Shown
from equimd.units import KB
from equimd.uq.posterior import Posterior
from equimd.uq.predict import Calibrated
from equimd.uq.recalibration import Recalibration

DRAWS = 200  # a bar from them is certain to 5 %
BATCH_SIZE = 64
SHARE, FRAMES = 0.1, 50  # of the frames, and frames, that nine in ten draws must leave effective to be reweighted to
EXPANDS = 1.0  # kT: spread of a draw's energies, up to which the second order is below the first

REWEIGHTED, SECOND, FIRST = "reweighting", "second-order cumulants", "first-order cumulants"


def drawn_weights(posterior: Posterior, count: int = DRAWS, seed: int = 0) -> Tensor:
    """(p, count) float64: draws of the weights, less their mean."""
    z = np.random.default_rng(seed).standard_normal((posterior.width, count))
    return posterior.scale @ torch.from_numpy(z).to(posterior.scale)


@dataclass(frozen=True, repr=False)
class EnergyDraws(Shown):
    """Energies of K draws at T frames of one trajectory, less those of the model, on the calibrated scale; eV.

    Attributes:
        energy: (T, K), of zero mean over the frames. offset: (K,), what all frames of a draw share.
    """

    energy: np.ndarray
    offset: np.ndarray

    @classmethod
    def calibrated(
        cls, raw: np.ndarray, variance: np.ndarray, distance: np.ndarray, recalibration: Recalibration
    ) -> EnergyDraws:
        """From energies of draws (T, K) of the raw posterior, whose variance is (T,), at feature distances (T,).

        Raises:
            UncertaintyError: fewer than two frames, or energies that are not finite.
        """
        if len(raw) < 2 or not np.isfinite(raw).all():
            raise UncertaintyError(f"energies of {len(raw)} frames under draws: two or more finite ones are needed")
        total = np.sum(recalibration.variance(variance, distance), axis=0)
        scaled = raw * np.sqrt(total / np.maximum(variance, np.finfo(np.float64).tiny))[:, None]
        offset = scaled.mean(0)
        return cls(scaled - offset, offset)

    @property
    def spread(self) -> float:
        """eV: how much the energies of a draw scatter over the frames, root mean square."""
        return float(np.sqrt(np.square(self.energy).mean()))

    def ensembles(self, temperature: float, method: str | None = None) -> Ensembles:
        """Each draw's averages at a temperature, K.

        Args:
            method: ``REWEIGHTED``, ``SECOND`` or ``FIRST``. By default frames are reweighted where nine in ten draws
                leave a tenth of them, and 50, effective; else the expansion, of second order where the energies scatter
                by up to kT.

        Raises:
            UncertaintyError: no positive temperature.
        """
        if not temperature > 0:
            raise UncertaintyError(f"a temperature of {temperature:g} K has no ensemble to reweight")
        d = self.energy / (KB * temperature)
        weights = np.exp(d.min(0) - d)
        weights /= weights.sum(0)
        share = 1 / np.square(weights).sum(0) / len(d)
        if method is None:
            fewest = float(np.quantile(share, 0.1))
            expanded = SECOND if self.spread <= EXPANDS * KB * temperature else FIRST
            method = REWEIGHTED if fewest >= max(SHARE, FRAMES / len(d)) else expanded
        if method != REWEIGHTED:
            square = np.square(d) - np.square(d).mean(0) if method == SECOND else 0.0
            weights = (1 - d + 0.5 * square) / len(d)
        return Ensembles(self, weights, share, method)


@dataclass(frozen=True, repr=False)
class Ensembles(Shown):
    """Averages over the ensembles of K draws, from T frames of one trajectory.

    Attributes:
        weights: (T, K) how much each frame counts in each draw's averages; columns add up to 1.
        share: (K,) of the frames that reweighting leaves effective (Kish 1965). method: how the weights were made.
    """

    draws: EnergyDraws
    weights: np.ndarray
    share: np.ndarray
    method: str

    def averages(self, values: np.ndarray) -> np.ndarray:
        """(K, ...) of values (T, ...), the same function of the frame for every draw."""
        flat = values.reshape(len(values), -1).astype(np.float64, copy=False)
        return (self.weights.T @ flat).reshape(self.weights.shape[1], *values.shape[1:])

    def errors(self, values: np.ndarray) -> np.ndarray:
        """(...) standard deviation of the averages over the draws: what is not known of them because of the model."""
        scatter = np.asarray(self.averages(values).std(0))
        return np.where(
            scatter > 1e-12 * np.abs(values).max(0), scatter, 0.0
        )  # of what is the same in all frames: none

    def energy_errors(self, energy: np.ndarray) -> tuple[float, float]:
        """The same of the mean energy, which differs from draw to draw as a function, too; of energies (T,), eV.

        Returns:
            With what the draw shifts all frames by, and without.
        """
        mean = self.averages(energy) + (self.weights * self.draws.energy).sum(0)
        return float((mean + self.draws.offset).std()), float(mean.std())


def energy_draws(
    model: Model,
    calibrated: Calibrated,
    data: Dataset,
    *,
    count: int = DRAWS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> EnergyDraws:
    """Energies of draws at the frames of a trajectory of one molecule or crystal, by one pass of features.

    Args:
        calibrated: of the model, on the same device. count: draws. seed: of the draws.
        progress: told the frames done and their number.

    Raises:
        UncertaintyError: fewer than two frames. ModelError: elements the model never saw.
    """
    posterior, raw, variance, distance = calibrated.layer.energy, [], [], []
    directions = drawn_weights(posterior, count, seed)
    for block in iterate_blocks(data):
        for start in range(0, len(block), BATCH_SIZE):
            frames = block.take(np.arange(start, min(start + BATCH_SIZE, len(block))))
            batch = Batch.from_frames(frames, model.cutoff, dtype=model.dtype, device=device)
            features = model.features(batch)
            raw.append((features[:, : posterior.width].double() @ directions).cpu().numpy())
            variance.append(posterior.variance(features).cpu().numpy())
            distance.append(calibrated.layer.distance(features, batch.n_atoms).cpu().numpy())
            if progress:
                progress(sum(map(len, raw)), len(data))
    joined = [np.concatenate(parts) if parts else np.zeros(0) for parts in (raw, variance, distance)]
    return EnergyDraws.calibrated(joined[0], joined[1], joined[2], calibrated.energy)
