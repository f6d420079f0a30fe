"""The exact posterior over a linear layer, from energies and forces together, through laplace-torch.

With phi the features of a structure, of every layer, and J = -dphi/dx those of its forces, both are linear in the
weights w: for Gaussian residuals with known sigmas and a Gaussian prior the posterior is exact,

    P = delta I + sum_frames phi phi^T / sigma_E^2 + sum_components j j^T / sigma_F^2,    Sigma = P^-1.

laplace-torch fits one Gaussian likelihood with one noise level. Here the curvature, the loss and the noise come in two
kinds, energies and forces; its fit loop, evidence, prior optimisation, sampling and functional variance work with them.
Daxberger et al., "Laplace Redux", NeurIPS 2021; MacKay, Neural Comput. 4, 415 (1992), for the evidence.

Importing this module imports laplace-torch, which takes seconds; what only predicts needs :mod:`equimd.uq.posterior`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from equimd.data.dataset import Dataset
from equimd.errors import UncertaintyError
from equimd.model.interface import CHUNK, Model
from equimd.notices import doing
from equimd.uq.laplace_torch import FullLLLaplace, GGNInterface
from equimd.uq.posterior import FeatureDistance, LastLayer, Posterior
from equimd.uq.rows import BATCH_SIZE, LABELS, LAYER, Progress, RowLoader, RowModel, rows_are_cheap

MAX_CONDITION = 1e13  # of the precision scaled to unit diagonal: float64 then leaves three digits of a variance
KINDS = ("energy", "forces")


class EnergyForceGGN(GGNInterface):
    """Gauss-Newton curvature with rows [energies | force components], the two kinds kept apart."""

    def last_layer_jacobians(self, x: Mapping[str, Any], enable_backprop: bool = False) -> tuple[Tensor, Tensor]:
        """Rows (rows, 1, p) and the model's values (rows, 1) of a batch as :class:`RowLoader` yields it."""
        rows = self.model.model.design(x)
        weight = self.model.last_layer.weight
        values = rows @ weight.T
        return rows.unsqueeze(1), values if enable_backprop else values.detach()

    def full(self, x: Mapping[str, Any], y: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Half the squared residuals (2,) and the curvature (2, p, p) of energies and of forces.

        Leaves ``slope`` (2, p): the derivative of the log likelihood at unit noise by the weights.
        """
        jacobians, values = self.last_layer_jacobians(x)
        rows, residual = jacobians.squeeze(1), (y - values).squeeze(1)
        parts = [slice(0, x["counts"][0]), slice(x["counts"][0], None)]
        self.slope = torch.stack([residual[part] @ rows[part] for part in parts])
        loss = torch.stack([self.factor * residual[part].square().sum() for part in parts])
        return loss, torch.stack([rows[part].T @ rows[part] for part in parts])


class EnergyForceLaplace(FullLLLaplace):
    """Posterior over the last layer of a :class:`RowModel`, whose two kinds of data have noise levels of their own.

    Args:
        model: linear in its last layer; copied.
        sigma_noise: standard deviations (energies in eV, force components in eV/Angstrom); one number serves both.
        prior_precision: delta, of the dimensionless weights, around 0.
    """

    def __init__(
        self,
        model: RowModel,
        *,
        sigma_noise: float | tuple[float, float] | Tensor = 1.0,
        prior_precision: float | Tensor = 1.0,
    ) -> None:
        super().__init__(
            model,
            "regression",
            prior_precision=prior_precision,
            backend=EnergyForceGGN,
            last_layer_name=LAYER,
            dict_key_y=LABELS,
        )
        self.sigma_noise = torch.as_tensor(sigma_noise, dtype=torch.float64)

    def _init_H(self) -> None:  # noqa: N802 (upstream's name)
        p = self.n_params
        self.H = torch.zeros(2, p, p, device=self._device, dtype=self._dtype)
        self.slope = torch.zeros(2, p, device=self._device, dtype=self._dtype)
        self.n_observations = torch.zeros(2, device=self._device, dtype=self._dtype)
        self._covariance: Tensor | None = None

    def _curv_closure(self, X: Mapping[str, Any], y: Tensor, N: int) -> tuple[Tensor, Tensor]:  # noqa: N803
        loss, curvature = self.backend.full(X, y, N=N)
        self.slope += self.backend.slope
        self.n_observations += torch.tensor(X["counts"], device=self._device, dtype=self._dtype)
        return loss, curvature

    def fit(self, train_loader: RowLoader, override: bool = True, progress_bar: bool = False) -> None:
        """One pass over the labelled frames, in float64.

        Raises:
            UncertaintyError: no labels, or features or labels that are not finite.
        """
        super().fit(train_loader, override=override, progress_bar=progress_bar)
        if not (torch.isfinite(self.H).all() and torch.isfinite(self.loss).all()):
            raise UncertaintyError(
                "the features or the labels of some frames are not finite", hint="equimd data inspect names them"
            )

    def stand_for(self, n_frames: int, drawn: int) -> None:
        """Let the frames fitted to, ``drawn`` at random from ``n_frames``, stand for all of these.

        What is summed over frames (curvature, slope, squared residuals, observations) grows in proportion: that is its
        expected sum over all of them. Noise, the mean of squared residuals, stays.
        """
        for name in ("H", "slope", "loss", "n_observations"):
            setattr(self, name, n_frames / drawn * getattr(self, name))
        self._posterior_scale = self._covariance = None

    @property
    def sigma_noise(self) -> Tensor:
        """(2,) noise of energies, eV, and of force components, eV/Angstrom."""
        return self._sigma_noise

    @sigma_noise.setter
    def sigma_noise(self, value: float | Tensor) -> None:
        """One level for each kind; laplace-torch itself knows one for all."""
        self._posterior_scale = self._covariance = None
        levels = torch.as_tensor(value, device=self._device, dtype=self._dtype).expand(2)
        if not bool((levels > 0).all() & torch.isfinite(levels).all()):
            raise UncertaintyError(f"noise levels must be positive: {levels.tolist()}")
        self._sigma_noise = levels

    @property
    def prior_precision(self) -> Tensor:
        """Precision of the prior, (1,) or (p,)."""
        return self._prior_precision

    @prior_precision.setter
    def prior_precision(self, value: float | Tensor) -> None:
        self._covariance = None
        FullLLLaplace.prior_precision.fset(self, value)

    @property
    def posterior_precision(self) -> Tensor:
        """P (p, p): the curvature of each kind over its noise, and the prior."""
        self._check_H_init()
        return (self._H_factor[:, None, None] * self.H).sum(0) + torch.diag(self.prior_precision_diag)

    @property
    def posterior_covariance(self) -> Tensor:
        """Sigma (p, p), kept: upstream multiplies it out on every call."""
        if self._covariance is None:
            self._covariance = super().posterior_covariance
        return self._covariance

    @property
    def log_likelihood(self) -> Tensor:
        """Log likelihood of all observations at the model's weights."""
        constant = (self.n_observations * torch.log(self.sigma_noise * math.sqrt(2 * math.pi))).sum()
        return -(self._H_factor * self.loss).sum() - constant

    def log_evidence(self) -> Tensor:
        """Log evidence, exact at any weights: laplace-torch's log marginal likelihood holds at the posterior's mode.

        A trained model is near the minimum of another loss; g P^-1 g / 2, with the slope g of the log joint density at
        its weights, is what the Gaussian integral is larger by.
        """
        delta = self.mean - self.prior_mean
        slope = (self._H_factor[:, None] * self.slope).sum(0) - self.prior_precision_diag * delta
        return self.log_marginal_likelihood() + 0.5 * (slope @ self.posterior_scale).square().sum()

    def posterior_mean(self) -> Tensor:
        """(p,) the exact mean of the posterior: where ridge regression on the features would put the weights."""
        delta = self.mean - self.prior_mean
        slope = (self._H_factor[:, None] * self.slope).sum(0) - self.prior_precision_diag * delta
        return self.mean + self.posterior_covariance @ slope

    def residual_noise(self) -> Tensor:
        """(2,) root mean squared residual of each kind on the frames fitted to; 1 for a kind without observations.

        Smaller than errors on new frames, so that a posterior with this noise is too sure of itself by a factor, which
        calibration on held-out frames finds.
        """
        seen = self.n_observations > 0
        mean = 2 * self.loss / self.n_observations.clamp(min=1)
        floor = torch.finfo(self._dtype).eps
        return torch.where(seen, mean.clamp(min=floor).sqrt(), torch.ones_like(mean))

    def _compute_scale(self) -> None:
        """L with Sigma = L L^T.

        Raises:
            UncertaintyError: the precision is singular to working accuracy.
        """
        precision = self.posterior_precision.detach()
        root = precision.diagonal().clamp(min=torch.finfo(self._dtype).tiny).sqrt()
        values = torch.linalg.eigvalsh(precision / root[:, None] / root)
        smallest, largest = float(values[0]), float(values[-1])
        if not smallest * MAX_CONDITION > largest:
            observations = ", ".join(
                f"{int(n)} of {kind}" for n, kind in zip(self.n_observations.tolist(), KINDS, strict=True)
            )
            raise UncertaintyError(
                f"the posterior of the last layer is singular: {self.n_params} weights, observations {observations}, "
                f"eigenvalues of the scaled precision from {smallest:.1e} to {largest:.1e}",
                hint="a larger prior precision, more training frames, or a narrower model (num_features)",
            )
        super()._compute_scale()

    def state_dict(self) -> dict[str, Tensor]:
        """All of the posterior as tensors, nothing to unpickle."""
        self._check_H_init()
        return {
            "mean": self.mean,
            "H": self.H,
            "loss": self.loss,
            "slope": self.slope,
            "n_observations": self.n_observations,
            "sigma_noise": self.sigma_noise,
            "prior_mean": torch.atleast_1d(self.prior_mean),
            "prior_precision": self.prior_precision,
            "n_data": torch.tensor(self.n_data),
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            UncertaintyError: it belongs to a last layer of another width.
        """
        missing = sorted(self._state_keys - state_dict.keys())
        if missing:
            raise UncertaintyError(
                f"the saved posterior lacks {', '.join(missing)}", hint="fit it again from the training frames"
            )
        if len(state_dict["mean"]) != self.n_params:
            raise UncertaintyError(
                f"the saved posterior has {len(state_dict['mean'])} weights, the model's last layer {self.n_params}",
                hint="fit it again from the training frames",
            )
        self._init_H()
        own = {k: state_dict[k].detach().to(self._device, self._dtype) for k in self._state_keys - {"n_data"}}
        self.slope, self.n_observations = own.pop("slope"), own.pop("n_observations")
        same = {"likelihood": self.likelihood, "temperature": self.temperature, "enable_backprop": self.enable_backprop}
        other = {"data": None, "_last_layer_name": self._last_layer_name, "cls_name": type(self).__name__}
        super().load_state_dict({**own, **same, **other, "n_data": int(state_dict["n_data"]), "n_outputs": 1})

    _state_keys = frozenset(
        ("mean", "H", "loss", "slope", "n_observations", "sigma_noise", "prior_mean", "prior_precision", "n_data")
    )

    def posterior(self) -> Posterior:
        """What predictions need of it, free of laplace-torch; contiguous, so as to round as when read from a file."""
        seen = self.H[1] if bool(self.n_observations[1]) else self.H[0]
        scale = self.posterior_scale.clone(memory_format=torch.contiguous_format)
        return Posterior(self.mean.clone(), scale, seen / max(float(seen.trace()), 1e-300))


def fit_posterior(
    model: Model,
    data: Dataset,
    *,
    targets: str,
    all_layers: bool = True,
    sigma_noise: float | tuple[float, float] | Tensor | None = None,
    prior_precision: float | None = None,
    batch_size: int = BATCH_SIZE,
    chunk: int = CHUNK,
    device: str | torch.device = "cpu",
    stand_for: int | None = None,
    progress: Progress | None = None,
) -> EnergyForceLaplace:
    """Fit the posterior of one last layer to the frames it was trained on.

    Args:
        targets: ``both``, ``energy`` or ``forces``; ``all_layers`` too as in :class:`RowModel`.
        sigma_noise: None takes the residuals' own level.
        prior_precision: None maximises the marginal likelihood, by laplace-torch.
        stand_for: number of frames that those of ``data`` were drawn from at random, and are the posterior of.

    Raises:
        UncertaintyError: no labels, an energy-only model, or a singular posterior.
    """
    rows = RowModel(model, targets, all_layers=all_layers, chunk=chunk, device=device)
    fitted = EnergyForceLaplace(rows)
    fitted.fit(RowLoader(data, rows, batch_size=batch_size, device=device, progress=progress))
    if stand_for is not None:
        fitted.stand_for(stand_for, len(data))
    fitted.sigma_noise = (
        fitted.residual_noise() if sigma_noise is None else torch.as_tensor(sigma_noise, dtype=torch.float64)
    )
    if prior_precision is None:
        doing("maximising the evidence")
        fitted.optimize_prior_precision(method="marglik", n_steps=200, prior_structure="scalar")
    else:
        fitted.prior_precision = prior_precision
    return fitted


def fit_last_layers(
    model: Model,
    data: Dataset,
    *,
    use_forces: bool = True,
    all_layers: bool | None = None,
    batch_size: int = BATCH_SIZE,
    chunk: int = CHUNK,
    device: str | torch.device = "cpu",
    stand_for: int | None = None,
    progress: Progress | None = None,
) -> tuple[LastLayer, dict[str, EnergyForceLaplace]]:
    """All that :class:`LastLayer` predicts with, from the training frames.

    A conservative model has one last layer, whose posterior serves energies and forces; a direct model has two.

    Args:
        use_forces: False learns the posterior of a conservative model from energies alone (as LLPR does), to compare.
        all_layers: a posterior over the weights of every layer's features; False, of the last layer's alone. None: of
            all where :func:`rows_are_cheap`, else of the last.
        stand_for: as of :func:`fit_posterior`.
        progress: told the frames done and their number, over all passes together.

    Returns:
        The arrays, and the fitted posteriors by name (``energy``, ``forces``; the same object for conservative models).
    """
    if not model.has_forces and use_forces:
        RowModel(model, "both")  # raises, and says why
    if all_layers is None:
        all_layers = rows_are_cheap(data)
    direct = not model.conservative
    passes = ["energy", "forces"] if direct else ["both" if use_forces else "energy"]
    total = (1 + len(passes)) * len(data)

    def share(number: int) -> Progress | None:
        return None if progress is None else lambda done, _: progress(number * len(data) + done, total)

    settings: dict[str, Any] = {"batch_size": batch_size, "device": device}
    more: dict[str, Any] = {**settings, "all_layers": all_layers, "chunk": chunk, "stand_for": stand_for}
    fitted = [fit_posterior(model, data, targets=t, progress=share(k), **more) for k, t in enumerate(passes)]
    distance = FeatureDistance.fit(model, data, progress=share(len(passes)), **settings)
    energy, forces = fitted[0].posterior(), fitted[-1].posterior()
    return LastLayer(energy, forces if direct else energy, distance), {"energy": fitted[0], "forces": fitted[-1]}
