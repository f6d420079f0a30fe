"""The floating-point work by count, beside what torch counts in the products that are made."""

from __future__ import annotations

import pytest
import torch
from ase.build import molecule
from torch.utils.flop_counter import FlopCounterMode

from equimd.benchmarks.work import pairs_within, products, step_flop
from equimd.config import ModelConfig
from equimd.model.painn.potential import Potential


@pytest.mark.parametrize("lmax", [1, 2, 3])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_products_with_weights_are_those_that_torch_counts(lmax: int, forces: str) -> None:
    atoms = molecule("CH3CH2OH")
    config = ModelConfig(elements=(1, 6, 8), lmax=lmax, tensor_products=False, forces=forces, num_features=32)
    model = Potential(config)
    positions = torch.tensor(atoms.positions, dtype=torch.float32)
    edges = torch.nonzero(torch.cdist(positions, positions).fill_diagonal_(9.0) < config.cutoff).T
    numbers, structure = torch.tensor(atoms.numbers), torch.zeros(len(atoms), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.network(positions, numbers, structure, 1, edge_index=edges)
    assert 2 * pairs_within(atoms.positions[None], config.cutoff) == edges.shape[1]
    channels = len(atoms) * 3 if forces == "direct" else 0
    last_layers = 2 * config.num_readout * (1 + channels)  # of which the count knows nothing
    assert counter.get_total_flops() == products(config, len(atoms), edges.shape[1])[0] + last_layers


def test_forces_take_more_than_the_energy_and_direct_ones_less() -> None:
    size = (9, 36)
    default, direct = ModelConfig(), ModelConfig(forces="direct")
    assert sum(products(default, *size)) < step_flop(direct, *size) < step_flop(default, *size)
    assert step_flop(ModelConfig(lmax=1), *size) < step_flop(ModelConfig(tensor_products=False), *size)
