"""Compiling the training step: whether it pays, batches of few shapes, one graph without autograd for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.config import RunConfig
from equimd.data.batch import DENSE_MAX_ATOMS, Batch
from equimd.training.schedule import epoch_budget

COMPILE_SECONDS = 90.0  # one cold compilation of the step
COMPILE_PAYS = 2.5  # a compiled step takes about a third of the time, so this leaves some margin
FEW_SIZES = 4  # of structures, each of which has shapes of its own
SECONDS_PER_PAIR = 6e-5  # of an eager training step, 128 features, 3 layers, on one core


def pays_to_compile(config: RunConfig, sizes: np.ndarray, periodic: bool = False) -> bool:
    """Whether the training is long enough to win back the time of compiling its step.

    Decided from the settings and the sizes of the structures alone, never from a clock: compiled and eager steps round
    differently, and a resumed training must take the same steps.
    """
    t, m = config.training, config.model
    if t.compile != "auto":
        return t.compile == "on"
    if periodic or int(sizes.max(initial=0)) > DENSE_MAX_ATOMS:
        return False
    shapes = len(np.unique(padded_slots(sizes)))
    expected = math.inf if t.max_time is None else t.max_time
    if (epochs := epoch_budget(t)) is not None:
        width = (m.num_features / 128) * (m.num_layers / 3) * max(1.0, m.lmax**2 * m.tensor_channels / m.num_features)
        expected = min(expected, epochs * float(np.square(sizes.astype(float)).sum()) * SECONDS_PER_PAIR * width)
    return expected > shapes * COMPILE_SECONDS * COMPILE_PAYS


def padded_slots(sizes: np.ndarray) -> np.ndarray:
    """(N,) slots that structures of so many atoms get in compiled batches: up to four sizes have their own, more share
    multiples of 4."""
    return sizes if len(np.unique(sizes)) <= FEW_SIZES else -(-sizes // 4) * 4


def pad_batch(batch: Batch, num_structures: int, num_slots: int) -> Batch:
    """A dense batch with empty slots and empty structures added, so that few shapes serve all batches.

    Empty slots have atomic number 0 and count in no loss.
    """
    b, n = batch.num_structures, batch.num_slots
    if (b, n) == (num_structures, num_slots):
        return batch

    def slots(x: Tensor) -> Tensor:
        out = x.new_zeros(num_structures, num_slots, *x.shape[1:])
        out[:b, :n] = x.view(b, n, *x.shape[1:])
        return out.flatten(0, 1)

    def rows(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(num_structures - b, *x.shape[1:])])

    return replace(
        batch,
        positions=slots(batch.positions),
        atomic_numbers=slots(batch.atomic_numbers),
        batch=torch.repeat_interleave(torch.arange(num_structures, device=batch.batch.device), num_slots),
        n_atoms=rows(batch.n_atoms),
        charge=rows(batch.charge),
        spin=rows(batch.spin),
        charge_stated=None,  # of the places that are filled up there is none
        cell=rows(batch.cell),
        pbc=rows(batch.pbc),
        energy=None if batch.energy is None else rows(batch.energy),
        forces=None if batch.forces is None else slots(batch.forces),
        energy_weight=None if batch.energy_weight is None else rows(batch.energy_weight),
        force_weight=None if batch.force_weight is None else slots(batch.force_weight),
        num_slots=num_slots,
    )


def compiled(function: Callable[..., Tensor], inputs: tuple[Any, ...]) -> Callable[..., Tensor]:
    """Trace ``function`` on ``inputs`` into one graph without autograd, and compile it for these shapes."""
    from torch.fx.experimental.proxy_tensor import make_fx

    given = [x for x in inputs if x is not None]
    slots = [k for k, x in enumerate(inputs) if x is not None]

    def on_given(*tensors: Tensor) -> Tensor:
        full: list[Tensor | None] = [None] * len(inputs)
        for k, x in zip(slots, tensors, strict=True):
            full[k] = x
        return function(*full)

    with torch.no_grad():
        # tracing runs the step once for real: on copies, so that nothing moves
        graph = make_fx(on_given)(*[x.clone() for x in given])
    fast = torch.compile(graph, dynamic=False, fullgraph=True)

    def run(*tensors: Tensor | None) -> Tensor:
        return fast(*[x for x in tensors if x is not None])

    return run
