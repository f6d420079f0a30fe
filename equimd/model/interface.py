"""A model is an interface: what data, uq, guard, md, forces and calculators need of a potential, and nothing else.

PaiNN (:mod:`equimd.model.painn`) is the first to pass. Whoever brings another writes one function, the pooled features,
in a :class:`equimd.model.differentiable.DifferentiableModel`, or all of :class:`Model` by hand, and runs it through
:func:`equimd.model.conformance.check_model`, which names what is broken.

What makes a potential one that can know its errors is a linear last layer over features phi that are sums over atoms:

    E = phi . w + sum_i E0(Z_i)          features phi (B, P), eV; w has p <= P weights, the columns beyond have weight 0
    F = -dE/dx = J w, J = -dphi/dx       conservative: force rows J (N, 3, P), eV/Angstrom
    F_i = V_i w'                         direct: equivariant channels V (N, 3, q) under a last layer of their own

Energies and forces are continuous when an atom crosses the cutoff, and no rotation, reflection, translation or order of
the atoms changes energies and features; forces and force rows turn along.

Units are eV and Angstrom; shapes are those of :mod:`equimd.data.batch`: B structures in N node slots. A model takes
both layouts of a batch, dense and edges, open and (with edges) periodic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, Required, TypedDict, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.errors import ModelError

CHUNK = 8  # features of one batched reverse pass: more fall out of the processor's cache, fewer repeat overhead


class Evaluation(TypedDict, total=False):
    """What a model says of a batch.

    Keys:
        energy: (B,) float64, total, eV, with the reference energies.
        forces: (N, 3) eV/Angstrom in the model's precision, zero in padded slots; NaN of a model without forces.
        features: (B, P) eV in the model's precision: energy = features[:, :p] . w + reference energies.
        virial: (B, 3, 3) eV, symmetric, of :meth:`VirialModel.evaluate_with_virial` alone.
    """

    energy: Required[Tensor]
    forces: Required[Tensor]
    features: Required[Tensor]
    virial: Tensor


class Rows(NamedTuple):
    """Rows of the design matrix of a batch: all that an exact posterior over the weights, and its variances, need.

    Attributes:
        energy: (B, P) features, eV.
        forces: (N, 3, q), eV/Angstrom, zero in padded slots. Conservative: -dfeatures/dx, of the first q features or
            in q directions of the weights. Direct: the channels under the force layer.
    """

    energy: Tensor
    forces: Tensor


class NetworkOutput(NamedTuple):
    """What a network says of a batch, before reference energies; differentiable.

    Attributes:
        energy: (B,) interaction energy, eV, in the precision of the positions.
        features: (B, P) pooled features, eV: the first p are phi of the last layer, energy = last_layer(phi); after
            them what other layers see, for the uncertainty alone.
        vectors: (N, 3, q) equivariant channels under the direct force layer, eV/Angstrom; None for conservative models.
        direct_forces: (N, 3) eV/Angstrom from them, zero in padded slots; None for conservative models.
    """

    energy: Tensor
    features: Tensor
    vectors: Tensor | None = None
    direct_forces: Tensor | None = None


class Model(Protocol):
    """A potential as the rest of equimd sees it.

    Calls leave the batch, the model and torch's settings as they are, work whether gradients are on or off, and return
    tensors without a graph. They refuse what :meth:`check` refuses.
    """

    @property
    def description(self) -> str:
        """What it is, in some words: its kind and its size."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers it answers for; empty: all."""

    @property
    def cutoff(self) -> float:
        """Angstrom: how far its neighbour lists reach."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of weights, forces and features: float32 or float64. Energies come out in float64."""

    @property
    def device(self) -> torch.device:
        """Where it computes, and where batches must be."""

    @property
    def has_forces(self) -> bool:
        """False of a model that learned energies alone."""

    @property
    def conservative(self) -> bool:
        """Whether forces are the energy's gradient; else they come from a layer of their own (direct)."""

    @property
    def sees_charge_spin(self) -> bool:
        """Whether charge and multiplicity change its answer."""

    @property
    def num_pooled(self) -> int:
        """P, the width of ``features``."""

    @property
    def energy_weights(self) -> Tensor:
        """(p,) trained weights of the last layer, dimensionless: the mean that a posterior is around. Detached."""

    @property
    def force_weights(self) -> Tensor:
        """(q,) the same of the layer that gives forces: ``energy_weights`` of a conservative model."""

    @property
    def pair_channels(self) -> int:
        """Numbers that it holds for a pair of atoms at a time: how many replicas fit the processor's cache."""

    def check(self, batch: Batch) -> None:
        """Refuse what the model cannot answer for.

        Raises:
            ModelError: elements it never saw, charges or multiplicities beyond those it knows.
        """

    def evaluate(self, batch: Batch) -> Evaluation:
        """Energies, forces and features of a batch.

        Raises:
            ModelError: as :meth:`check`.
        """

    def features(self, batch: Batch) -> Tensor:
        """(B, P) the features alone, without the cost of forces.

        Raises:
            ModelError: as :meth:`check`.
        """

    def rows(
        self, batch: Batch, *, width: int | None = None, directions: Tensor | None = None, chunk: int = CHUNK
    ) -> Rows:
        """Energy rows and force rows of a batch.

        Args:
            width: force rows of the first so many features are enough, more may come; None: of all P.
            directions: (k <= P, m) force rows in m directions of the first k weights instead, J @ directions, at m/P
                of the cost. Of a direct model: of the weights of its force layer.
            chunk: features, or directions, of one reverse pass where the model takes those.

        Raises:
            ModelError: as :meth:`check`.
            UncertaintyError: directions of the wrong length.
        """

    def reference_energy(self, batch: Batch) -> Tensor:
        """(B,) float64: sum of the atomic reference energies E0 of each structure, eV."""

    def converted(self, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> Model:
        """A copy in another precision or on another device, with frozen weights; reference energies stay float64."""

    def identity(self) -> str:
        """sha256 of its weights, in hexadecimal: the same for the same answers."""


@runtime_checkable
class VirialModel(Model, Protocol):
    """A model that also knows how its energy changes when space is stretched: stress, for cells that relax."""

    def evaluate_with_virial(self, batch: Batch) -> Evaluation:
        """:meth:`Model.evaluate`, and W = -dE/de at e = 0, where every vector r becomes r (1 + e), e symmetric.

        The stress of a cell of volume V is -W/V, positive where the crystal pulls inwards.

        Raises:
            ModelError: as :meth:`Model.check`, or the forces are not the energy's gradient.
        """


def gives_virial(model: Model) -> bool:
    """Whether stress can be had from a model."""
    return isinstance(model, VirialModel) and model.conservative and model.has_forces


def check_data(model: Model, data: Dataset, *, where: str | None = None) -> None:
    """:meth:`Model.check` of all frames of a data set, before work on them begins.

    Raises:
        ModelError: there are some that the model cannot answer for; ``where`` is the data's path by default.
    """
    for block in iterate_blocks(data):
        open_frames = replace(block, pbc=np.zeros_like(block.pbc))  # no neighbour lists are made for this
        try:
            model.check(Batch.from_frames(open_frames, model.cutoff, device=model.device, neighbors="dense"))
        except ModelError as error:
            raise ModelError(error.what, where=where or data.info.path or None, hint=error.hint) from None


class GraphKernels(NamedTuple):
    """C++ for operators that a compiled graph calls by functions of their own.

    Attributes:
        operators: of ``torch.ops``, that stand in a traced graph.
        kernels: source of the loops. shims: source of the functions by which torch's ahead-of-time compiler calls the
            operators, ``aoti_torch_cpu_NAME``.
    """

    operators: list[Any]
    kernels: str
    shims: str


@runtime_checkable
class CompilableModel(Model, Protocol):
    """A model whose energy and forces can be compiled into one graph; others run eager, several times slower.

    :mod:`equimd.forces.compiled` adds what is asked for besides, such as the screen, which needs the features alone.
    :mod:`equimd.calculators.metatomic` traces it for other programs, where the model is a ``torch.nn.Module``.
    """

    @property
    def interaction_range(self) -> float:
        """Angstrom: how far atoms are that change an atom's part of the energy; more than the cutoff where messages are
        passed on."""

    def graph_tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name: inputs of the graph, so that it serves every model of the same settings."""

    def graph_outputs(
        self, tensors: Mapping[str, Tensor], positions: Tensor, batch: Batch, *, native: bool
    ) -> NetworkOutput:
        """The network as a pure function of ``graph_tensors`` and positions (N, 3), for a batch in either layout.

        It is traced: no branch may depend on values. In the edge layout sizes are not constants either, and atoms of
        different structures may be neighbours. With ``native`` the operators of :meth:`graph_kernels` may be in it.

        Args:
            tensors: none: the model's own.
        """

    def graph_key(self) -> Mapping[str, Any]:
        """JSON of all that the traced code depends on besides shapes: settings, and a digest of its sources."""

    def graph_kernels(self) -> GraphKernels | None:
        """Operators with kernels of their own; None for none."""
