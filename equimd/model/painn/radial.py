"""Radial functions and the smooth cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_TAIL = 40.0  # where exp(-z), 4e-18, is below the rounding of float64


def polynomial_cutoff(lengths: Tensor, cutoff: float, p: int = 6) -> Tensor:
    """Envelope that falls from 1 to 0 at ``cutoff`` with two continuous derivatives, and is 0 beyond.

    Gasteiger et al., "Directional message passing" (2020), eq. 8.

    Args:
        lengths: (...) Angstrom.
    Returns:
        (...) in [0, 1].
    """
    x = lengths / cutoff
    value = 1 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x)
    return torch.where(x < 1, value, torch.zeros_like(value))


class RadialBasis(nn.Module):
    """``num_rbf`` smooth functions of the distance; a subclass writes ``forward``, (E,) Angstrom -> (E, num_rbf).

    The network multiplies them by a smooth cutoff. They hold no weights, and compute in the precision of the lengths.

    Args:
        values: (num_rbf,) float64, a number for each function, such as its centre.
    """

    values: Tensor

    def __init__(self, num_rbf: int, cutoff: float, values: Tensor | None = None) -> None:
        super().__init__()
        self.num_rbf, self.cutoff = num_rbf, cutoff
        self.register_buffer("values", values, persistent=False)

    def extra_repr(self) -> str:
        return f"num_rbf={self.num_rbf}, cutoff={self.cutoff}"


class Gaussian(RadialBasis):
    """Centres evenly on [0, cutoff], width = spacing (PaiNN as published for MD17)."""

    def __init__(self, num_rbf: int, cutoff: float) -> None:
        super().__init__(num_rbf, cutoff, torch.linspace(0, cutoff, num_rbf, dtype=torch.float64))
        self.width = cutoff / max(num_rbf - 1, 1)

    def forward(self, lengths: Tensor) -> Tensor:
        return _gaussian(lengths[:, None] - self.values.to(lengths.dtype), self.width * math.sqrt(2.0))


class Bessel(RadialBasis):
    """sqrt(2/cutoff) sin(n pi r / cutoff) / r (Gasteiger et al. 2020, eq. 7)."""

    def __init__(self, num_rbf: int, cutoff: float) -> None:
        super().__init__(num_rbf, cutoff, torch.arange(1, num_rbf + 1, dtype=torch.float64) * (math.pi / cutoff))

    def forward(self, lengths: Tensor) -> Tensor:
        r = lengths[:, None]
        return torch.sin(r * self.values.to(lengths.dtype)) / r * math.sqrt(2.0 / self.cutoff)


class ExpNormal(RadialBasis):
    """Gaussians of exp(-r / Angstrom), centres evenly on [exp(-cutoff), 1] (Unke and Meuwly, "PhysNet", 2019, eq. 7).

    Fine where bonds are, ever smoother farther out, as interactions are.
    """

    def __init__(self, num_rbf: int, cutoff: float) -> None:
        last = math.exp(-cutoff)
        super().__init__(num_rbf, cutoff, torch.linspace(last, 1.0, num_rbf, dtype=torch.float64))
        self.width = 2.0 / num_rbf * (1.0 - last)

    def forward(self, lengths: Tensor) -> Tensor:
        return _gaussian(torch.exp(-lengths[:, None]) - self.values.to(lengths.dtype), self.width)


def _gaussian(x: Tensor, width: float) -> Tensor:
    """exp(-(x/width)^2). Tails become exact zeros before they become denormal numbers, tens of times slower."""
    z = (x / width).square()
    return torch.where(z < _TAIL, torch.exp(-z), torch.zeros_like(z))
