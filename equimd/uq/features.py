"""What the last layer sees: features phi of a structure, and the rows by which forces are linear in its weights.

E = phi . w (+ reference energies), so F = -dE/dx = J w with J = -dphi/dx; the direct force head is F = V w'. To phi
come the pooled scalars of every layer, whose trained weights are zero: ``features``. These rows are all that an exact
posterior over the weights, and any variance from it, needs.

J of small molecules comes from :mod:`equimd.model.painn.tangents`, all coordinates at once in forward mode; that of
others, and rows in a few directions of the weights, from batched reverse passes through the eager network.
"""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from equimd.data.batch import Batch
from equimd.errors import UncertaintyError
from equimd.model import Potential, batch_arguments
from equimd.model.painn.tangents import feature_slopes

CHUNK = 8  # features of one batched reverse pass: more fall out of the processor's cache, fewer repeat overhead


class Rows(NamedTuple):
    """Rows of the design matrix of a batch with B structures in N node slots.

    Attributes:
        energy: (B, P) features, eV: energy = features . w, with w = 0 but for the first p.
        forces: (N, 3, q), eV/Angstrom, zero in padded slots. Conservative: J = -dfeatures/dx, forces = J w. Direct
            head: V, q channels, forces = V w' with the weights of the force head.
    """

    energy: Tensor
    forces: Tensor


def double_precision(model: Potential) -> Potential:
    """A float64 copy in evaluation mode with frozen weights; the model itself is left as it is."""
    return deepcopy(model).to(torch.float64).eval().requires_grad_(False)


def energy_rows(model: Potential, batch: Batch) -> Tensor:
    """Features of each structure, (B, P), eV."""
    model.check(batch)
    with torch.no_grad():
        return model.network(batch.positions.to(model.dtype), **batch_arguments(batch)).features


def design_rows(model: Potential, batch: Batch, *, width: int | None = None, chunk: int = CHUNK) -> Rows:
    """Energy rows and force rows of a batch.

    For conservative models J comes from :mod:`equimd.model.painn.tangents`, if the layout is dense; else from a
    vector-Jacobian product a feature, ``chunk`` of them at a time in one vectorised reverse pass. Structures do not see
    each other: the derivative of the sum of the features over the batch holds every one's own.

    Args:
        width: force rows of the first so many features are enough; None: of all P.

    Raises:
        ModelError: elements the model was not trained on.
    """
    if model.force_head is not None:
        model.check(batch)
        with torch.no_grad():
            out = model.network(batch.positions.to(model.dtype), **batch_arguments(batch))
        return Rows(out.features, cast("Tensor", out.vectors))
    if batch.num_slots:
        model.check(batch)
        features, slopes = feature_slopes(model, batch)
        return Rows(features, slopes.neg_())
    first = None if width is None else torch.eye(width, dtype=model.dtype, device=batch.positions.device)
    return Rows(*projected_rows(model, batch, first, chunk=chunk))


def projected_rows(
    model: Potential, batch: Batch, directions: Tensor | None, *, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Features, and force rows in some directions of the weights only: k directions cost k/P of all rows.

    Args:
        directions: (w, k) over the weights of the first w <= P features, or None for all P axes. For a direct model
            the rows are those of its force head.
        chunk: directions of one reverse pass.

    Returns:
        Features (B, P), and J @ directions (N, 3, k), zero in padded slots.

    Raises:
        UncertaintyError: directions of the wrong length.
    """
    model.check(batch)
    if model.force_head is not None:
        rows = design_rows(model, batch)
        return rows.energy, rows.forces if directions is None else rows.forces @ directions.to(rows.forces)
    with torch.enable_grad():
        positions = batch.positions.detach().to(model.dtype).requires_grad_(True)
        features = model.network(positions, **batch_arguments(batch)).features
        p = features.shape[1]
        if directions is None:
            basis = torch.eye(p, dtype=features.dtype, device=features.device)
        elif directions.ndim == 2 and len(directions) <= p:
            basis = nn.functional.pad(directions.to(features).T, (0, p - len(directions)))
        else:
            raise UncertaintyError(f"directions have shape {tuple(directions.shape)}, there are {p} features")
        total, parts = features.sum(0), []
        for start in range(0, len(basis), chunk):
            part = basis[start : start + chunk]
            (gradient,) = torch.autograd.grad(
                total, positions, part, is_grads_batched=True, retain_graph=start + chunk < len(basis)
            )
            parts.append(gradient)
    return features.detach(), -torch.cat(parts).permute(1, 2, 0)


def real_atoms(batch: Batch) -> Tensor:
    """(N,) bool: the slots that hold an atom."""
    return batch.atomic_numbers > 0
