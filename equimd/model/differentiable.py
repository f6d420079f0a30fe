"""A model from its pooled features alone; all else that :class:`~equimd.model.interface.Model` asks for follows.

A subclass registers its layers and writes :meth:`DifferentiableModel.pooled`; :func:`neighbors_within` gives it the
pairs of either layout of a batch. Forces and force rows come from reverse-mode derivatives of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from functools import wraps
from typing import Any, NamedTuple, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from equimd.chemistry import refuse_unseen
from equimd.data.batch import Batch
from equimd.errors import ModelError, UncertaintyError
from equimd.files import tensor_digest
from equimd.model.interface import CHUNK, Evaluation, NetworkOutput, Rows

Method = TypeVar("Method", bound=Callable[..., Any])
MAX_ELEMENTS = 119  # atomic numbers 0, padding, to 118


def ordinary_mode() -> torch.inference_mode:
    """A block in which derivatives can be taken, also where the caller is in torch's inference mode."""
    return torch.inference_mode(False)


def derivable(method: Method) -> Method:
    """A model's method of a batch, which takes derivatives whatever mode the caller and the batch are in."""

    @wraps(method)
    def ordinary(self: Any, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        if not (torch.is_inference_mode_enabled() or batch.positions.is_inference()):
            return method(self, batch, *args, **kwargs)
        with ordinary_mode():
            values = {f.name: getattr(batch, f.name) for f in fields(batch)}
            copies: Any = {k: v.clone() for k, v in values.items() if isinstance(v, Tensor) and v.is_inference()}
            return method(self, replace(batch, **copies), *args, **kwargs)

    return cast(Method, ordinary)


class DifferentiableModel(nn.Module):
    """A conservative model whose pooled features torch can differentiate.

    The energy is linear in the weights of ``last_layer``, a plain ``nn.Linear(p, 1, bias=False)`` on the first p
    features: ``E = last_layer(phi) + sum_i E0(Z_i)``. A subclass sets it in its constructor.

    Args:
        elements: atomic numbers it answers for; none: all.
        cutoff: Angstrom.

    Attributes:
        atomic_energies: (119,) float64, the reference energies E0, eV; a buffer, zero to begin with, which keeps its
            precision whatever the model is converted to.
    """

    last_layer: nn.Linear
    atomic_energies: Tensor

    def __init__(self, elements: Sequence[int], cutoff: float) -> None:
        super().__init__()
        self.elements, self.cutoff = tuple(elements), float(cutoff)
        self.register_buffer("atomic_energies", torch.zeros(MAX_ELEMENTS, dtype=torch.float64))
        self._known: Tensor | None = None

    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        """Features (B, P) of a batch whose atoms are at ``positions`` (N, 3), which torch can differentiate.

        Atoms in padded slots (atomic number 0) take no part. Sums over the atoms of a structure, so that two structures
        far apart have the sum of their features.
        """
        raise NotImplementedError

    def outputs(self, positions: Tensor, batch: Batch, *, once: bool = False) -> NetworkOutput:
        """Energy and features, differentiable by the positions.

        Args:
            once: no more than one reverse pass, of one quantity, will follow.
        """
        features = self.pooled(positions, batch)
        phi = features[:, : self.last_layer.in_features]
        return NetworkOutput(self.last_layer(phi).squeeze(-1), features)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def description(self) -> str:
        return type(self).__name__

    @property
    def dtype(self) -> torch.dtype:
        return self.last_layer.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.last_layer.weight.device

    @property
    def has_forces(self) -> bool:
        return True

    @property
    def conservative(self) -> bool:
        return True

    @property
    def sees_charge_spin(self) -> bool:
        return False

    @property
    def num_pooled(self) -> int:
        return self.last_layer.in_features

    @property
    def energy_weights(self) -> Tensor:
        return self.last_layer.weight.detach()[0]

    @property
    def force_weights(self) -> Tensor:
        return self.energy_weights

    @property
    def pair_channels(self) -> int:
        return self.num_pooled

    # -- what it says ----------------------------------------------------------------------------------------------

    def check(self, batch: Batch) -> None:
        """Refuse elements the model never saw.

        Raises:
            ModelError: there are some.
        """
        if not self.elements:
            return
        numbers = batch.atomic_numbers
        if self._known is None or self._known.device != numbers.device:
            self._known = torch.zeros(MAX_ELEMENTS, dtype=torch.bool, device=numbers.device)
            self._known[[0, *self.elements]] = True
        known = self._known[numbers]
        if not bool(known.all()):
            refuse_unseen(numbers[~known].tolist(), self.elements)

    def evaluate(self, batch: Batch) -> Evaluation:
        """Energies, forces and features of a batch; see :meth:`equimd.model.interface.Model.evaluate`."""
        return self._evaluated(batch, differentiable=False)

    def evaluate_with_virial(self, batch: Batch) -> Evaluation:
        """:meth:`evaluate` and the virial, from one backward pass; see :class:`equimd.model.interface.VirialModel`."""
        if not (self.conservative and self.has_forces):
            raise ModelError("no virial: the forces are not the gradient of an energy", hint="a conservative model")
        return self._evaluated(batch, differentiable=False, virial=True)

    def forward(self, batch: Batch) -> Evaluation:
        """:meth:`evaluate`; in training mode, results that can be differentiated by the weights."""
        return self._evaluated(batch, differentiable=self.training)

    @derivable
    def _evaluated(self, batch: Batch, *, differentiable: bool, virial: bool = False) -> Evaluation:
        self.check(batch)
        by_gradient = self.conservative and self.has_forces
        positions = batch.positions.to(self.dtype)
        with torch.set_grad_enabled(by_gradient or (differentiable and torch.is_grad_enabled())):
            if by_gradient:
                positions = positions.detach().requires_grad_(True)
            strain = positions.new_zeros(batch.num_structures if virial else 0, 3, 3, requires_grad=virial)
            moved, given = strained(positions, batch, strain) if virial else (positions, batch)
            out = self.outputs(moved, given, once=not differentiable)
            if by_gradient:
                wanted = (positions, strain) if virial else (positions,)
                gradient, *rest = torch.autograd.grad(out.energy.sum(), wanted, create_graph=differentiable)
                forces = -gradient
            else:
                forces = out.direct_forces if out.direct_forces is not None else torch.full_like(positions, torch.nan)
        energy, features = out.energy, out.features
        if not differentiable:
            energy, forces, features = energy.detach(), forces.detach(), features.detach()
        energy = energy.double() + self.reference_energy(batch)
        found: Evaluation = {"energy": energy, "forces": forces, "features": features}
        if virial:
            found["virial"] = -0.5 * (rest[0] + rest[0].mT)
        return found

    @derivable
    def features(self, batch: Batch) -> Tensor:
        """(B, P) pooled features, eV."""
        self.check(batch)
        with torch.no_grad():
            return self.outputs(batch.positions.to(self.dtype), batch).features

    @derivable
    def rows(
        self, batch: Batch, *, width: int | None = None, directions: Tensor | None = None, chunk: int = CHUNK
    ) -> Rows:
        """Energy rows and force rows, in reverse mode; see :meth:`equimd.model.interface.Model.rows`."""
        self.check(batch)
        positions = batch.positions.to(self.dtype)
        if self.conservative:
            if directions is None and width is not None:
                directions = torch.eye(width, dtype=self.dtype, device=positions.device)
            return reverse_rows(lambda x: self.outputs(x, batch).features, positions, directions, chunk=chunk)
        with torch.no_grad():
            out = self.outputs(positions, batch)
        if out.vectors is None:
            raise ModelError("a direct model without vectors: there is nothing that its forces are linear in")
        if directions is None:
            return Rows(out.features, out.vectors)
        return Rows(out.features, out.vectors @ checked(directions, out.vectors.shape[-1]).to(out.vectors))

    def reference_energy(self, batch: Batch) -> Tensor:
        """(B,) float64: sum of the atomic reference energies of each structure, eV."""
        e0 = self.atomic_energies[batch.atomic_numbers]
        return e0.new_zeros(batch.num_structures).index_add(0, batch.batch, e0)

    def converted(self, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> Self:
        """A copy in evaluation mode with frozen weights, in another precision or on another device."""
        with ordinary_mode():
            copy = deepcopy(self).to(device=device, dtype=dtype)
        return copy.eval().requires_grad_(False)

    def identity(self) -> str:
        """sha256 over the names, types, shapes and values of weights and buffers, as in the header of a saved model."""
        return tensor_digest(self.state_dict())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As torch does it, but for the reference energies, which no precision below float64 can hold."""
        exact = self.atomic_energies
        super()._apply(fn, recurse)
        self.atomic_energies = exact.to(self.atomic_energies.device)
        return self


def strained(positions: Tensor, batch: Batch, strain: Tensor) -> tuple[Tensor, Batch]:
    """Positions (N, 3), and a batch with its lattice shifts, stretched by 1 + strain (B, 3, 3) around each structure's
    centre, where a molecule far from the origin keeps its digits. A strain of zero changes no bit."""
    sums = positions.new_zeros(batch.num_structures, 3).index_add(0, batch.batch, positions.detach())
    counts = torch.bincount(batch.batch, minlength=batch.num_structures)
    centred = positions - (sums / counts[:, None]).index_select(0, batch.batch)
    moved = positions + (centred.unsqueeze(1) @ strain.index_select(0, batch.batch)).squeeze(1)
    if batch.edge_index is None or batch.edge_shifts is None:
        return moved, batch
    shifts, owner = batch.edge_shifts.to(positions), batch.batch.index_select(0, batch.edge_index[0])
    return moved, replace(batch, edge_shifts=shifts + (shifts.unsqueeze(1) @ strain.index_select(0, owner)).squeeze(1))


def checked(directions: Tensor, width: int) -> Tensor:
    """Directions (k, m) of ``width`` weights or the first of them.

    Raises:
        UncertaintyError: they are no such thing.
    """
    if directions.ndim != 2 or len(directions) > width:
        raise UncertaintyError(f"directions have shape {tuple(directions.shape)}, there are {width} features")
    return directions


def reverse_rows(
    features_of: Callable[[Tensor], Tensor], positions: Tensor, directions: Tensor | None = None, *, chunk: int = CHUNK
) -> Rows:
    """Features and their derivatives by the positions, from vector-Jacobian products.

    ``chunk`` of them make one vectorised reverse pass. Structures do not see each other: the derivative of the sum of
    the features over the batch holds every one's own.

    Args:
        features_of: positions (N, 3) -> features (B, P).
        directions: (k <= P, m) over the first k features, or None for all P axes.

    Returns:
        Features (B, P), and -dfeatures/dx @ directions (N, 3, m).

    Raises:
        UncertaintyError: directions of the wrong length.
    """
    with torch.enable_grad():
        x = positions.detach().requires_grad_(True)
        features = features_of(x)
        p = features.shape[1]
        if directions is None:
            basis = torch.eye(p, dtype=features.dtype, device=features.device)
        else:
            columns = checked(directions, p).to(features).T
            basis = nn.functional.pad(columns, (0, p - columns.shape[1]))
        total, parts = features.sum(0), list[Tensor]()
        for start in range(0, len(basis), chunk):
            part, more = basis[start : start + chunk], start + chunk < len(basis)
            parts += torch.autograd.grad(total, x, part, is_grads_batched=True, retain_graph=more)
    return Rows(features.detach(), -torch.cat(parts).permute(1, 2, 0))


class Neighbors(NamedTuple):
    """Pairs of atoms within a cutoff, each in both directions.

    Attributes:
        source, target: (E,) node slots of j and i.
        vectors: (E, 3) r_j - r_i, with the lattice shift, Angstrom; differentiable. lengths: (E,).
    """

    source: Tensor
    target: Tensor
    vectors: Tensor
    lengths: Tensor


def neighbors_within(positions: Tensor, batch: Batch, cutoff: float) -> Neighbors:
    """The pairs of a batch in either layout, whose atoms are at ``positions`` (N, 3)."""
    index, shifts = (all_pairs(batch), None) if batch.edge_index is None else (batch.edge_index, batch.edge_shifts)
    if shifts is not None:
        shifts = shifts.to(positions)

    def vectors(x: Tensor) -> Tensor:
        between = x.index_select(0, index[0]) - x.index_select(0, index[1])
        return between if shifts is None else between + shifts

    near = vectors(positions.detach()).square().sum(-1) < cutoff**2
    index, shifts = index[:, near], None if shifts is None else shifts[near]
    found = vectors(positions)
    return Neighbors(index[0], index[1], found, found.norm(dim=-1))


def all_pairs(batch: Batch) -> Tensor:
    """(2, E) all ordered pairs of two atoms of one structure, for a batch in the dense layout.

    Raises:
        ModelError: another layout, without its edges.
    """
    n = batch.num_slots
    if not n:
        raise ModelError("a batch without padding needs its edges", where="edge_index")
    slots = torch.arange(n, device=batch.positions.device)
    pairs = torch.cartesian_prod(slots, slots).T
    first = torch.arange(0, n * batch.num_structures, n, device=slots.device)
    index = (pairs[:, None, :] + first[None, :, None]).flatten(1)
    real = (batch.atomic_numbers > 0)[index].all(0) & (index[0] != index[1])
    return index[:, real]
