"""Radial functions and the smooth cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_TAIL = 80.0  # squared widths from the centre where a Gaussian, 4e-18, is below the rounding of float64


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


def cosine_cutoff(lengths: Tensor, r_max: float) -> Tensor:
    """0.5 (cos(pi r / r_max) + 1) below ``r_max``, 0 beyond (Behler 2011; PaiNN as published)."""
    value = 0.5 * (torch.cos(lengths * (math.pi / r_max)) + 1)
    return torch.where(lengths < r_max, value, torch.zeros_like(value))


class RadialBasis(nn.Module):
    """``num_rbf`` functions of the distance.

    - ``gaussian``: centres evenly on [0, r_max], width = spacing (PaiNN as published for MD17).
    - ``bessel``: sqrt(2/r_max) sin(n pi r / r_max) / r (Gasteiger et al. 2020, eq. 7).
    """

    def __init__(self, kind: str, num_rbf: int, r_max: float) -> None:
        super().__init__()
        self.kind, self.num_rbf, self.r_max = kind, num_rbf, r_max
        if kind == "gaussian":
            values = torch.linspace(0, r_max, num_rbf, dtype=torch.float64)
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
            z = ((r - values) / width).square()
            # tails become exact zeros before they become denormal numbers, which cost tens of times a normal one
            return torch.where(z < _TAIL, torch.exp(-0.5 * z), torch.zeros_like(z))
        return torch.sin(r * values) / r * math.sqrt(2.0 / self.r_max)
