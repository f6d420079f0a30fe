"""Random numbers that belong to a replica and a step, not to the order in which they are drawn.

Counter-based (Philox 4x64, Salmon et al. 2011): numbers are a function of (seed, replica, purpose, step).
So 32 replicas in one batch are 32 runs one after another, a replica that halts changes nothing for the others, and a
run goes on bit-identically after a restart without any generator state to save.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

STEPS_PER_BLOCK = 32  # steps drawn at once; part of the definition of the stream


class Purpose(IntEnum):
    """Streams of one replica that must not overlap."""

    VELOCITIES = 0
    BATH = 1


def normal_block(seed: int, replica: int, purpose: Purpose, block: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers, float64, of one block of one stream; blocks before the start have negative numbers."""
    # the low counter words run within a block, the high ones name it: no two blocks can overlap
    counter = np.array([0, 0, int(purpose), block % 2**64], dtype=np.uint64)
    generator = np.random.Philox(key=np.array([seed, replica], dtype=np.uint64), counter=counter)
    return np.random.Generator(generator).standard_normal(shape)


class BathNoise:
    """The random forces of a bath: standard normal (R, n, 3) for given replicas and step.

    Args:
        seed: of the run, 0 to 2^64 - 1.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._key: tuple[object, ...] = ()
        self._values = torch.empty(0)

    def __call__(self, replicas: tuple[int, ...], step: int, like: Tensor) -> Tensor:
        """Numbers for the step from ``step`` to ``step + 1``, with the shape of ``like`` (R, n, 3)."""
        block, index = divmod(step, STEPS_PER_BLOCK)
        key = (replicas, block, like.shape[1:], like.device)
        if key != self._key:
            shape = (STEPS_PER_BLOCK, *like.shape[1:])
            drawn = np.stack([normal_block(self.seed, r, Purpose.BATH, block, shape) for r in replicas], axis=1)
            self._values, self._key = torch.from_numpy(drawn).to(like.device), key
        return self._values[index]
