"""What is minimised: how an error of an energy or of a force on an atom counts. Errors in eV and eV/Angstrom.

- ``l2mae``: |dE| and the length of the error vector of each atom, the loss of OC20's forces (Chanussot et al. 2021).
  It does not turn with the frame of reference, and frames far from equilibrium do not outweigh the rest.
- ``mse``: squared errors, of energies and of force components (PaiNN as published).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Loss = Literal["l2mae", "mse"]
_EPS = 1e-10  # (eV/Angstrom)^2 under the root, so that its derivative stays finite where the error is 0


def energy_losses(loss: Loss, error: Tensor) -> Tensor:
    """(B,) errors -> (B,) what each adds; the mean over structures is minimised."""
    return error.abs() if loss == "l2mae" else error.square()


def force_losses(loss: Loss, error: Tensor) -> Tensor:
    """(N, 3) errors -> (N,) what each atom adds, 0 for an error of 0; the mean over atoms is minimised."""
    squared = error.square().sum(-1)
    return (squared + _EPS).sqrt() - _EPS**0.5 if loss == "l2mae" else squared / 3
