"""Radial functions and the smooth cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_TAIL = 40.0  # where exp(-z), 4e-18, is below the rounding of float64


def polynomial_cutoff(lengths: Tensor, r_max: float, p: int = 6) -> Tensor:
    """Envelope that falls from 1 to 0 at ``r_max`` with two continuous derivatives, and is 0 beyond.

    Gasteiger et al., "Directional message passing" (2020), eq. 8.

    Args:
        lengths: (...) Angstrom.
    Returns:
        (...) in [0, 1].
    """
    x = lengths / r_max
    value = 1 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x)
    return torch.where(x < 1, value, torch.zeros_like(value))


class RadialBasis(nn.Module):
    """``num_rbf`` functions of the distance.

    - ``gaussian``: centres evenly on [0, r_max], width = spacing (PaiNN as published for MD17).
    - ``bessel``: sqrt(2/r_max) sin(n pi r / r_max) / r (Gasteiger et al. 2020, eq. 7).
    - ``expnorm``: Gaussians of exp(-r / Angstrom), centres evenly on [exp(-r_max), 1] (Unke and Meuwly, "PhysNet",
      2019, eq. 7): fine where bonds are, ever smoother farther out, as interactions are.
    """

    def __init__(self, kind: str, num_rbf: int, r_max: float) -> None:
        super().__init__()
        self.kind, self.num_rbf, self.r_max = kind, num_rbf, r_max
        if kind == "gaussian":
            values = torch.linspace(0, r_max, num_rbf, dtype=torch.float64)
        elif kind == "expnorm":
            values = torch.linspace(math.exp(-r_max), 1.0, num_rbf, dtype=torch.float64)
        else:
            values = torch.arange(1, num_rbf + 1, dtype=torch.float64) * (math.pi / r_max)
        self.register_buffer("values", values, persistent=False)
        self.values: Tensor

    def extra_repr(self) -> str:
        return f"{self.kind}, num_rbf={self.num_rbf}, r_max={self.r_max}"

    def forward(self, lengths: Tensor) -> Tensor:
        """(E,) Angstrom -> (E, num_rbf)."""
        values = self.values.to(lengths.dtype)
        r = lengths[:, None]
        if self.kind == "gaussian":
            width = self.r_max / max(self.num_rbf - 1, 1)
            return _gaussian(r - values, width * math.sqrt(2.0))
        if self.kind == "expnorm":
            return _gaussian(torch.exp(-r) - values, 2.0 / self.num_rbf * (1.0 - math.exp(-self.r_max)))
        return torch.sin(r * values) / r * math.sqrt(2.0 / self.r_max)


def _gaussian(x: Tensor, width: float) -> Tensor:
    """exp(-(x/width)^2). Tails become exact zeros before they become denormal numbers, tens of times slower."""
    z = (x / width).square()
    return torch.where(z < _TAIL, torch.exp(-z), torch.zeros_like(z))
