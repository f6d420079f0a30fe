"""What a model says with a fitted posterior: variances of energies and covariances of forces.

Plain tensors and no laplace-torch, so that molecular dynamics starts at once. Per atom and per frame, so that a report
can say which atom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.errors import UncertaintyError
from equimd.model.interface import CHUNK, Model, Rows
from equimd.shown import Shown

FLOAT32_NOISE = 1e-6  # of the features, relative: what single precision leaves of them


@dataclass(frozen=True, repr=False)
class Posterior(Shown):
    """N(mean, Sigma) over the weights of a last layer, Sigma = scale scale^T; float64.

    Attributes:
        mean: (p,) the trained weights.
        scale: (p, p) lower triangular.
        second_moment: (p, p) of the rows it was fitted to (those of forces where there are any), unit trace.
    """

    mean: Tensor
    scale: Tensor
    second_moment: Tensor

    @property
    def width(self) -> int:
        """p, weights."""
        return len(self.scale)

    def variance(self, rows: Tensor) -> Tensor:
        """Var of each row's value: (..., p or more) -> (...)."""
        return (self._own(rows) @ self.scale).square().sum(-1)

    def covariance(self, rows: Tensor) -> Tensor:
        """Covariance of the values of c rows: (..., c, p or more) -> (..., c, c), never negative by construction."""
        root = self._own(rows) @ self.scale
        return root @ root.mT

    def _own(self, rows: Tensor) -> Tensor:
        """The columns that it is a posterior over, the first ones, in float64."""
        return rows[..., : self.width].double()


@dataclass(frozen=True, repr=False)
class FeatureDistance(Shown):
    """u = (x - mean)^T C^-1 (x - mean) / rank: how far a structure is from the training frames, in their own spread.

    x = phi / n_atoms, so that structures of different size compare; for one composition u is the same as with phi. C is
    the covariance of x over the training frames, u their 1 on average. Directions whose spread is below what single
    precision resolves are given that much.

    Attributes:
        mean: (p,).
        whiten: (p, rank), C^-1 = whiten whiten^T.
    """

    mean: Tensor
    whiten: Tensor

    @classmethod
    def fit(
        cls,
        model: Model,
        data: Dataset,
        *,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> FeatureDistance:
        """One forward pass over the frames in float64; moments are merged batch by batch (Chan et al. 1983).

        Raises:
            UncertaintyError: fewer than two frames.
        """
        model = model.converted(torch.float64, device)
        p = len(model.energy_weights)
        count, square = 0, 0.0
        mean, scatter = torch.zeros(p, dtype=torch.float64), torch.zeros(p, p, dtype=torch.float64)
        mean, scatter = mean.to(device), scatter.to(device)
        for pooled in _features(model, data, batch_size, device, progress):
            features = pooled[:, :p]
            n, center = len(features), features.mean(0)
            shift = center - mean
            scatter = scatter + (features - center).T @ (features - center)
            scatter = scatter + torch.outer(shift, shift) * (count * n / (count + n))
            mean, square = mean + shift * (n / (count + n)), square + float(features.square().sum())
            count += n
        if count < 2:
            raise UncertaintyError(f"{count} frames: the spread of the features needs at least 2")
        return cls.from_moments(mean, scatter / count, noise=FLOAT32_NOISE * (square / count / p) ** 0.5)

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor, *, noise: float = 0.0) -> FeatureDistance:
        """From the mean (p,) and covariance (p, p), with a floor under the standard deviation in any direction."""
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp(min=max(noise**2, 1e-14 * float(values[-1]), torch.finfo(values.dtype).tiny))
        return cls(mean, (vectors / values.sqrt()).contiguous())

    def __call__(self, features: Tensor, n_atoms: Tensor) -> Tensor:
        """u (B,) of features (B, p or more), the first p of them, of structures of ``n_atoms`` (B,)."""
        x = features[:, : len(self.mean)].double() / n_atoms.type_as(self.mean)[:, None] - self.mean
        return (x @ self.whiten).square().mean(-1)


def _features(
    model: Model,
    data: Dataset,
    batch_size: int,
    device: str | torch.device,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Tensor]:
    """Features / n_atoms of every frame, in batches (B, P)."""
    done = 0
    for block in iterate_blocks(data):
        order = np.lexsort((block.n_atoms, block.pbc.any(1)))
        for start in range(0, len(order), batch_size):
            frames = block.take(order[start : start + batch_size])
            batch = Batch.from_frames(frames, model.cutoff, dtype=torch.float64, device=device)
            yield model.features(batch) / batch.n_atoms[:, None]
            done += len(frames)
            if progress:
                progress(done, len(data))


@dataclass(frozen=True, repr=False)
class RawUncertainty(Shown):
    """Uncertainty of the last layer alone, before calibration.

    Attributes:
        energy_variance: (B,) eV^2.
        force_covariance: (N, 3, 3) (eV/Angstrom)^2, zero in padded slots.
        distance: (B,) feature distance u.
    """

    energy_variance: Tensor
    force_covariance: Tensor
    distance: Tensor

    @property
    def force_variance(self) -> Tensor:
        """(N,) trace / 3: the mean variance of a component, which no rotation changes."""
        return self.force_covariance.diagonal(dim1=-2, dim2=-1).mean(-1)


@dataclass(frozen=True, repr=False)
class LastLayer(Shown):
    """All that a model's uncertainty is computed from; for conservative models ``forces`` is ``energy``."""

    energy: Posterior
    forces: Posterior
    distance: FeatureDistance

    def raw(self, model: Model, batch: Batch, *, chunk: int = CHUNK) -> RawUncertainty:
        """The exact variances, from the rows of energies and forces."""
        return self.of_rows(model.rows(batch, width=self.forces.width, chunk=chunk), batch)

    def of_rows(self, rows: Rows, batch: Batch) -> RawUncertainty:
        """The exact variances of a batch whose rows are known."""
        return RawUncertainty(
            self.energy.variance(rows.energy),
            self.forces.covariance(rows.forces),
            self.distance(rows.energy, batch.n_atoms),
        )

    def to(self, device: str | torch.device) -> LastLayer:
        """The same on another device."""
        return LastLayer.from_state({name: tensor.to(device) for name, tensor in self.state_dict().items()})

    def state_dict(self) -> dict[str, Tensor]:
        """As plain tensors."""
        parts = {"energy": self.energy, "distance": self.distance}
        if self.forces is not self.energy:
            parts["forces"] = self.forces
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in vars(part).items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> LastLayer:
        """Undo :meth:`state_dict`.

        Raises:
            UncertaintyError: something is missing.
        """

        def part(name: str) -> dict[str, Tensor]:
            return {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith(f"{name}.")}

        try:
            energy = Posterior(**part("energy"))
            forces = Posterior(**part("forces")) if part("forces") else energy
            return cls(energy, forces, FeatureDistance(**part("distance")))
        except TypeError as error:
            raise UncertaintyError(
                f"the saved uncertainty is incomplete ({error})", hint="fit it again from the training frames"
            ) from None
