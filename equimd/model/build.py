"""The model that settings describe: where those of ``equimd train`` and of saved runs come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equimd.config import ModelConfig

if TYPE_CHECKING:
    from equimd.model.painn.potential import Potential


def build_model(config: ModelConfig, seed: int | None = None) -> Potential:
    """A model with weights drawn from a seed; torch's own random numbers go on as if nothing had been drawn.

    Args:
        seed: None, where the weights will be others anyway.
    """
    from equimd.model.painn.potential import Potential

    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        return Potential(config)
