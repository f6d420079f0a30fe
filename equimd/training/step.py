"""One training step, energies, forces, loss, gradients, AdamW and EMA, as one pure function that can be compiled.

The weights live in one flat vector, of which the model's parameters are views. A step is
``gradients`` (forward, forces = -dE/dR, loss, d loss/d weights) followed by ``update`` (clipping, AdamW, EMA). Eager,
these run as written. Compiled, both are traced into a single graph of tensor operations with no autograd left in it
(``make_fx`` unrolls the double backward, which ``torch.compile`` alone refuses), one graph a batch shape.

AdamW: Loshchilov and Hutter 2019, algorithm 2. EMA: Polyak averaging with the warm-up min(decay, (1+t)/(10+t)).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from equimd.data.batch import Batch
from equimd.machine import has_compiler
from equimd.model.painn.network import learning_rate_factors
from equimd.model.painn.potential import Network, Potential, batch_arguments
from equimd.notices import doing
from equimd.training.compiling import FEW_SIZES, compiled, pad_batch
from equimd.training.metrics import Loss, energy_losses, force_losses
from equimd.training.parallel import ALONE, Processes

log = logging.getLogger(__name__)

STATISTICS = ("loss", "energy_abs", "energy_sq", "forces_abs", "forces_sq", "n_frames", "n_components", "grad_norm")
MAX_GRAPHS = 8  # compiled batch shapes of one run; further shapes run eager
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class FlatParameters:
    """All parameters of a module in one vector; the module's own parameters become views of it."""

    def __init__(self, model: torch.nn.Module) -> None:
        named = list(model.named_parameters())
        self.names = [name for name, _ in named]
        self.shapes = [p.shape for _, p in named]
        self.sizes = [p.numel() for _, p in named]
        self.vector = torch.cat([p.detach().reshape(-1) for _, p in named])
        for (_, p), view in zip(named, self.views(self.vector), strict=True):
            p.data = view

    def views(self, vector: Tensor) -> list[Tensor]:
        """The parameters inside a vector of this layout."""
        return [part.view(shape) for part, shape in zip(vector.split(self.sizes), self.shapes, strict=True)]


class State(NamedTuple):
    """What a step moves, and the factor on the rate of each parameter: vectors as long as all parameters."""

    parameters: Tensor
    moment1: Tensor
    moment2: Tensor
    ema: Tensor
    factors: Tensor


class TrainStep:
    """Trains ``model`` in place, one batch a call.

    Args:
        model: its parameters become views of one flat vector.
        energy_weight, forces_weight: lambda_E and lambda_F of
            lambda_E mean_b l_E(dE_b) + lambda_F mean_i l_F(dF_i), in eV and eV/Angstrom, the means over the structures
            and over all atoms of the batch.
        loss: l_E and l_F, see :mod:`equimd.training.metrics`.
        energy_loss_per_atom: l_E of dE_b divided by the number of atoms of b.
        weight_decay: decoupled, times the learning rate.
        grad_clip: largest norm of the gradient; 0 for none.
        ema_decay: of the averaged weights; 0 for none.
        compile: run the step as one compiled graph where the layout allows it (dense batches, a C++ compiler).
        batch_size: structures of a full batch; compiled batches are padded up to it.
        max_atoms: slots of a full batch, instead.
        sizes: atom counts that occur in the data; with many, compiled batches are padded to multiples of 4 slots.
        processes: that share each step. Every one is called with its part of the batch, which may be empty, and ends
            with the same weights.
    """

    def __init__(
        self,
        model: Potential,
        *,
        energy_weight: float,
        forces_weight: float,
        loss: Loss = "l2mae",
        energy_loss_per_atom: bool = False,
        weight_decay: float = 0.0,
        grad_clip: float = 0.0,
        ema_decay: float = 0.0,
        compile: bool = False,
        batch_size: int | None = None,
        max_atoms: int | None = None,
        sizes: Sequence[int] = (),
        processes: Processes = ALONE,
    ) -> None:
        self.model, self.processes = model, processes
        self.energy_weight, self.forces_weight, self.loss = energy_weight, forces_weight, loss
        self.energy_loss_per_atom = energy_loss_per_atom
        self.weight_decay, self.grad_clip, self.ema_decay = weight_decay, grad_clip, ema_decay
        self.compile = compile
        if compile and not has_compiler():
            if processes.first:
                log.warning("no C++ compiler found: training runs uncompiled, about half as fast")
            self.compile = False
        self.batch_size = None if batch_size is None else -(-batch_size // processes.size)
        self.max_atoms = max_atoms
        self.sizes = sorted(set(sizes))
        self.flat = FlatParameters(model)
        vector = self.flat.vector
        factors = learning_rate_factors(model)
        self._factors = torch.cat(
            [vector.new_full((n,), factors[name]) for name, n in zip(self.flat.names, self.flat.sizes, strict=True)]
        )
        self._moment1, self._moment2 = torch.zeros_like(vector), torch.zeros_like(vector)
        self._ema = vector.clone()
        self._count = 0
        self._graphs: dict[tuple[object, ...], Callable[..., Tensor]] = {}

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Steps taken."""
        return self._count

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a resumed training needs besides the data order: tensors only."""
        return {
            "parameters": self.flat.vector.clone(),
            "moment1": self._moment1.clone(),
            "moment2": self._moment2.clone(),
            "ema": self._ema.clone(),
            "count": torch.tensor(self._count),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`, bit for bit."""
        self.flat.vector.copy_(state["parameters"])
        self._moment1.copy_(state["moment1"])
        self._moment2.copy_(state["moment2"])
        self._ema.copy_(state["ema"])
        self._count = int(state["count"])

    def ema_weights(self) -> dict[str, Tensor]:
        """State dict of the model with averaged parameters (buffers as they are)."""
        state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        if self.ema_decay:
            state.update(zip(self.flat.names, (v.clone() for v in self.flat.views(self._ema)), strict=True))
        return state

    @property
    def shapes_compiled(self) -> int:
        """Batch shapes that a graph was compiled for."""
        return len(self._graphs)

    # -- one step ------------------------------------------------------------------------------------------------

    def __call__(self, batch: Batch, lr: float) -> dict[str, Tensor]:
        """Take one step; returns the sums named in ``STATISTICS`` as 0-dim tensors (eV, A), before the update."""
        self.model.check(batch)
        hyper = self._hyper(lr, *self._shares(batch))
        if self.compile and batch.num_slots:
            batch = self._padded(batch)
        inputs = self._inputs(batch)
        with torch.no_grad():
            if self.processes.size == 1:
                statistics = self._runner(self._whole, batch, inputs, hyper)(*self._state(), hyper, *inputs)
            else:
                statistics = self._shared(batch, inputs, hyper)
        return dict(zip(STATISTICS, statistics.unbind(), strict=True))

    def _shares(self, batch: Batch) -> tuple[float, float]:
        """The parts of all structures and of all atoms of this step that are in ``batch``.

        A mean over its own part, times the share, is what a process adds to the mean over all.
        """
        if self.processes.size == 1:
            return 1.0, 1.0
        own = torch.tensor([batch.num_structures, int(batch.n_atoms.sum())], dtype=torch.float64)
        return tuple((own / self.processes.sum_(own.clone()).clamp(min=1)).tolist())

    def _hyper(self, lr: float, energy_share: float, forces_share: float) -> Tensor:
        """Settings as a tensor, so that one compiled graph serves every value of them; see :meth:`update`."""
        self._count += 1
        t = self._count
        decay = min(self.ema_decay, (1 + t) / (10 + t))
        return self.flat.vector.new_tensor(
            [
                lr,
                1 - BETA1**t,
                math.sqrt(1 - BETA2**t),
                1 - decay,
                1 - lr * self.weight_decay,
                self.grad_clip or math.inf,
                self.energy_weight * energy_share,
                self.forces_weight * forces_share,
            ]
        )

    def _state(self) -> State:
        return State(self.flat.vector, self._moment1, self._moment2, self._ema, self._factors)

    def _padded(self, batch: Batch) -> Batch:
        n = batch.num_slots
        if len(self.sizes) > FEW_SIZES or n not in self.sizes:
            n = -(-n // 4) * 4
        full = self.batch_size or 0
        if self.max_atoms is not None:
            full = -(-(self.max_atoms // n) // self.processes.size)
        return pad_batch(batch, max(full, batch.num_structures), n)

    def _inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Tensors of the batch in a fixed order; targets have the reference energies taken off in float64."""
        dtype = self.model.dtype
        energy = None
        if batch.energy is not None:
            energy = (batch.energy - self.model.reference_energy(batch)).to(dtype)
        arguments = batch_arguments(batch)
        return (
            batch.positions.to(dtype),
            batch.atomic_numbers,
            batch.batch,
            batch.n_atoms,
            arguments["edge_index"],
            arguments["edge_shifts"],
            batch.charge,
            batch.spin,
            energy if self.energy_weight else None,
            batch.forces.to(dtype) if batch.forces is not None and self.forces_weight else None,
            batch.energy_weight if self.energy_weight else None,
            batch.force_weight if self.forces_weight else None,
        )

    def _runner(
        self, function: Callable[..., Tensor], batch: Batch, inputs: tuple[Any, ...], hyper: Tensor
    ) -> Callable[..., Tensor]:
        """``function`` of the tensors of a State, ``hyper`` and ``_inputs``, compiled where that is wanted."""
        sizes = (batch.num_structures, batch.num_slots)
        present = tuple(x is not None for x in inputs)
        eager = functools.partial(function, sizes=sizes, pair_kernels=False)
        if not (self.compile and batch.num_slots):
            return eager
        key = (*sizes, *present)
        if key not in self._graphs:
            if len(self._graphs) >= MAX_GRAPHS:
                return eager
            log.info("compiling the training step for %d structures of up to %d atoms: one to three minutes", *sizes)
            doing("compiling the training step")
            native = batch.num_slots > 1 and batch.positions.device.type == "cpu"
            traced = functools.partial(function, sizes=sizes, pair_kernels=native)
            self._graphs[key] = compiled(traced, (*self._state(), hyper, *inputs))
        return self._graphs[key]

    def _whole(self, *tensors: Any, sizes: tuple[int, int], pair_kernels: bool) -> Tensor:
        """A step on the tensors of a State, ``hyper`` and ``_inputs``, one after the other."""
        k = len(State._fields)
        state, hyper, inputs = State(*tensors[:k]), tensors[k], tensors[k + 1 :]
        return self._moved(state, hyper, *self._slope(state, hyper, inputs, sizes, pair_kernels))

    def _summand(self, *tensors: Any, sizes: tuple[int, int], pair_kernels: bool) -> Tensor:
        """Gradient and statistics of one process in one vector. Arguments as in ``_whole``."""
        k = len(State._fields)
        return torch.cat(self._slope(State(*tensors[:k]), tensors[k], tensors[k + 1 :], sizes, pair_kernels))

    def _slope(
        self, state: State, hyper: Tensor, inputs: tuple[Any, ...], sizes: tuple[int, int], pair_kernels: bool
    ) -> tuple[Tensor, Tensor]:
        return self.gradients(state.parameters, hyper[6], hyper[7], inputs, sizes, pair_kernels=pair_kernels)

    def _moved(self, state: State, hyper: Tensor, gradient: Tensor, statistics: Tensor) -> Tensor:
        """Clip the gradient and update; returns all statistics."""
        norm = gradient.norm()
        gradient = gradient * (hyper[5] / (norm + 1e-6)).clamp(max=1.0)
        self.update(state, hyper, gradient)
        return torch.cat([statistics, norm.detach()[None]])

    def _shared(self, batch: Batch, inputs: tuple[Any, ...], hyper: Tensor) -> Tensor:
        """A step whose gradient several processes sum; clipping and update are the same in each."""
        state = self._state()
        lengths = [len(state.parameters), len(STATISTICS) - 1]
        if batch.num_structures:
            summand = self._runner(self._summand, batch, inputs, hyper)(*state, hyper, *inputs)
        else:
            summand = hyper.new_zeros(sum(lengths))
        return self._moved(state, hyper, *self.processes.sum_(summand).split(lengths))

    def gradients(
        self,
        vector: Tensor,
        energy_weight: Tensor,
        forces_weight: Tensor,
        inputs: tuple[Any, ...],
        sizes: tuple[int, int],
        *,
        pair_kernels: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """d loss / d weights as one vector, and the statistics but the last. ``inputs`` as in ``_inputs``."""
        positions, numbers, structure, n_atoms, edge_index, edge_shifts, charge, spin, energy, forces, *counts = inputs
        energy_counts, force_counts = counts
        num_structures, num_slots = sizes
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_(True) for p in self.flat.views(vector)]
            conservative = self.model.force_head is None and forces is not None
            x = positions.detach().requires_grad_(conservative)
            out = functional_call(
                Network(self.model),
                {f"model.{name}": leaf for name, leaf in zip(self.flat.names, leaves, strict=True)},
                (x, numbers, structure, num_structures),
                {
                    "num_slots": num_slots,
                    "edge_index": edge_index,
                    "edge_shifts": edge_shifts,
                    "charge": charge,
                    "spin": spin,
                    "pair_kernels": pair_kernels,
                },
            )
            loss = positions.new_zeros(())
            zero = positions.new_zeros(())
            energy_abs = energy_sq = forces_abs = forces_sq = zero
            n_frames, n_components = zero, zero
            if energy is not None:
                present = (n_atoms > 0).to(energy.dtype)
                n_frames = n_structures = present.sum()
                if energy_counts is not None:  # labels that are missing count 0, others by the weight of their frame
                    present = (energy_counts > 0).to(energy.dtype)
                    n_frames = present.sum()
                error = (out.energy - energy) * present
                energy_abs, energy_sq = error.detach().abs().sum(), error.detach().square().sum()
                if self.energy_loss_per_atom:
                    error = error / n_atoms.clamp(min=1)
                lost = energy_losses(self.loss, error)
                lost = lost if energy_counts is None else lost * energy_counts
                loss = loss + energy_weight * lost.sum() / n_structures
            if forces is not None:
                n_components = n_all = 3 * (numbers > 0).to(forces.dtype).sum()
                if conservative:
                    (slope,) = torch.autograd.grad(out.energy.sum(), x, create_graph=True)
                    predicted = -slope
                else:
                    predicted = out.direct_forces
                error = predicted - forces
                if force_counts is not None:
                    labelled = (force_counts > 0).to(forces.dtype)
                    n_components = 3 * labelled.sum()
                    error = error * labelled[:, None]
                forces_abs, forces_sq = error.detach().abs().sum(), error.detach().square().sum()
                lost = force_losses(self.loss, error)
                lost = lost if force_counts is None else lost * force_counts
                loss = loss + forces_weight * 3 * lost.sum() / n_all
            parts = torch.autograd.grad(loss, leaves, allow_unused=True)
        gradient = torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(parts, leaves, strict=True)]
        )
        statistics = [loss.detach(), energy_abs, energy_sq, forces_abs, forces_sq, n_frames, n_components]
        return gradient.detach(), torch.stack(statistics)

    def update(self, state: State, hyper: Tensor, gradient: Tensor) -> None:
        """AdamW and EMA in place.

        ``hyper`` = learning rate, 1 - beta1^t, sqrt(1 - beta2^t), EMA weight, decay factor, largest gradient norm,
        lambda_E, lambda_F.
        """
        lr, correction1, correction2, weight, decay = hyper[:5].unbind()
        m = state.moment1 * BETA1 + gradient * (1 - BETA1)
        v = state.moment2 * BETA2 + gradient.square() * (1 - BETA2)
        step = (lr / correction1) * state.factors * m / (v.sqrt() / correction2 + EPS)
        moved = state.parameters * decay - step
        state.ema.copy_(state.ema + (moved - state.ema) * weight)
        state.moment1.copy_(m)
        state.moment2.copy_(v)
        state.parameters.copy_(moved)
