"""The processes of one training, started by ``torchrun``, and the few words they exchange.

Every process holds all weights, takes its part of each batch, and the gradients are summed: data parallelism with the
result of one process but for rounding. torch's DistributedDataParallel is not used: it hooks into ``backward`` and
averages gradients over processes, where :mod:`equimd.training.step` computes them as a function (with forces inside, a
double backward) into one vector, which one sum carries over, weighted right where the parts are uneven.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from equimd.errors import ConfigError, MachineError
from equimd.training.stalls import StallWatch

T = TypeVar("T")
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets in each process
TIMEOUT = timedelta(hours=1)  # longer than the first process ever reads, validates or writes alone


@dataclass(frozen=True)
class Processes:
    """This process among those of its training. One alone (the default) has nobody to talk to: all calls are free.

    Every method but :meth:`parts` and :meth:`device` is collective: each process calls it, in the same order.

    Attributes:
        rank: number of this process, from 0; the first one prints and writes.
        size: how many there are.
        local_rank, local_size: the same among those of this machine.
        watch: tells who keeps the others waiting.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    watch: StallWatch | None = field(default=None, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def parts(self, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What this process takes of each batch: frames are dealt out there and back, so that of frames in the order of
        their size each process has about as many atoms; none where there are too few."""
        if self.size == 1:
            return list(batches)
        return [self._part(index) for index in batches]

    def _part(self, index: np.ndarray) -> np.ndarray:
        turn, place = np.divmod(np.arange(len(index)), self.size)
        return index[np.where(turn % 2, self.size - 1 - place, place) == self.rank]

    def device(self, device: torch.device) -> torch.device:
        """``device``, or the GPU of this process's own.

        Raises:
            ConfigError: there are fewer GPUs than processes, or one GPU is named for all.
        """
        if self.size == 1 or device.type != "cuda":
            return device
        count = torch.cuda.device_count()
        if device.index is not None and self.local_size > 1:
            raise ConfigError(
                f"'{device}' is one GPU for {self.local_size} processes", where="--device", hint="--device cuda"
            )
        if self.local_size > count:
            raise ConfigError(
                f"{self.local_size} processes and {count} GPUs on this machine",
                where="--device",
                hint=f"torchrun --nproc-per-node {count}, or --device cpu",
            )
        own = torch.device("cuda", self.local_rank if device.index is None else device.index)
        torch.cuda.set_device(own)
        return own

    def sum_(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over all processes, the same bits in each; in place."""
        if self.size > 1:
            with self._call():
                dist.all_reduce(x)
        return x

    def broadcast(self, value: T | None) -> T | None:
        """The ``value`` of the first process, in each: a small Python object."""
        if self.size == 1:
            return value
        box = [value]
        with self._call():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def barrier(self) -> None:
        """Wait until all are here."""
        self.sum_(torch.zeros(1))

    @contextmanager
    def _call(self) -> Iterator[None]:
        with _lost_process(), self.watch.call() if self.watch else nullcontext():
            yield


ALONE = Processes()


def leads() -> bool:
    """Whether this process is the one that prints and writes: alone, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0" or not all(os.environ.get(name) for name in LAUNCHED)


@contextmanager
def _lost_process() -> Iterator[None]:
    """A process that died closes its connections, which torch reports as a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise MachineError(
            f"another process of this training ended or cannot be reached ({reason})",
            hint="its own message, if it left one; go on from the last checkpoint with --resume",
        ) from error


@contextmanager
def launched() -> Iterator[Processes]:
    """The processes that torchrun started, joined for as long as the context lasts; else this one alone."""
    if not all(os.environ.get(name) for name in LAUNCHED) or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    # tensors of the CPU go by gloo, those of a GPU by nccl
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with _lost_process():
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", store), rank=rank, world_size=size, timeout=TIMEOUT
        )
    local_rank, local_size = (int(os.environ.get(f"LOCAL_{k}", v)) for k, v in (("RANK", rank), ("WORLD_SIZE", size)))
    try:
        with StallWatch(dist.PrefixStore("stalls", store), rank, size) as watch:
            yield Processes(rank, size, local_rank, local_size, watch)
    finally:
        dist.destroy_process_group()
