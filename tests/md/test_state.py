"""Velocities, momenta and degrees of freedom."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equimd.data.system import System
from equimd.errors import DataError
from equimd.md.noise import STEPS_PER_BLOCK, BathNoise, Purpose, normal_block
from equimd.md.state import (
    degrees_of_freedom,
    initial_state,
    kinetic_energy,
    maxwell_boltzmann,
    remove_momentum,
    temperature,
)
from equimd.units import KB
from tests.potentials import methanol, water

CO2 = np.array([[-1.16, 0.0, 0.0], [0.0, 0.0, 0.0], [1.16, 0.0, 0.0]])


def angular_momentum(system: System, positions: torch.Tensor, velocities: torch.Tensor) -> torch.Tensor:
    m = system.masses[:, None]
    centred = positions - (m * positions).sum(-2, keepdim=True) / m.sum()
    return torch.linalg.cross(centred, m * velocities).sum(-2)


@pytest.mark.parametrize(
    ("numbers", "positions", "periodic", "bath", "expected"),
    [
        ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]], False, False, 3),
        ([8, 6, 8], CO2, False, False, 4),
        ([1, 1], [[0.1, 0.2, 0.3], [0.5, 0.8, 0.3]], False, False, 1),
        ([18], [[1.0, 2.0, 3.0]], False, False, 0),
        ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]], True, False, 6),
        ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]], False, True, 9),
    ],
    ids=["bent", "linear", "diatomic", "atom", "periodic", "bath"],
)
def test_degrees_of_freedom(numbers, positions, periodic, bath, expected) -> None:
    cell = 10.0 * np.eye(3) if periodic else None
    system = System.build(numbers, cell=cell, pbc=[periodic] * 3)
    assert degrees_of_freedom(system, torch.tensor(np.array(positions)), bath=bath) == expected


@pytest.mark.parametrize("axis", [[1.0, 0.0, 0.0], [0.36, -0.48, 0.8]])
def test_momenta_are_removed_and_the_mean_kinetic_energy_is_right(axis: list[float]) -> None:
    direction = torch.tensor(axis, dtype=torch.float64)
    rod = torch.tensor([-1.16, 0.0, 1.16], dtype=torch.float64)[:, None] * direction + 5.0
    for molecule, dof in ((System.build([8, 6, 8]), 4), (water().system, 3)):
        reference = rod if dof == 4 else water().reference
        x = reference.expand(4000, -1, -1)
        v = maxwell_boltzmann(molecule, x, 300.0, seed=3, replicas=range(4000), bath=False)
        typical = float((molecule.masses[:, None] * v).abs().mean())
        assert float((molecule.masses[:, None] * v).sum(1).abs().max()) < 1e-12 * typical
        assert float(angular_momentum(molecule, x, v).abs().max()) < 1e-12 * typical
        kinetic = kinetic_energy(molecule, v) / (KB * 300.0)
        # Gamma(f/2): mean f/2, variance f/2
        assert float(kinetic.mean()) == pytest.approx(dof / 2, abs=4 * np.sqrt(dof / 2 / 4000))
        assert float(temperature(molecule, v, dof).mean()) == pytest.approx(300.0, rel=0.06)


def test_with_a_bath_nothing_is_removed() -> None:
    m = methanol()
    x = m.reference.expand(2000, -1, -1)
    v = maxwell_boltzmann(m.system, x, 300.0, seed=3, replicas=range(2000), bath=True)
    per_component = (v.square() * m.system.masses[:, None]).mean((0, 2))
    expected = per_component.mean()
    assert torch.allclose(per_component, expected.expand(6), rtol=0.1)
    assert float(kinetic_energy(m.system, v).mean()) == pytest.approx(9 * KB * 300.0, rel=0.02)


def test_periodic_systems_keep_their_angular_momentum() -> None:
    system = System.build([8, 1, 1], cell=8.0 * np.eye(3), pbc=[True] * 3)
    x = water().reference.expand(3, -1, -1)
    v = torch.ones_like(x) + torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).double().expand_as(x), x)
    left = remove_momentum(system, x, v)
    assert float((system.masses[:, None] * left).sum(1).abs().max()) < 1e-12
    assert float(angular_momentum(system, x, left).abs().max()) > 0.1


def test_random_numbers_belong_to_replica_and_step() -> None:
    like = torch.zeros(3, 4, 3, dtype=torch.float64)
    together, alone = BathNoise(7), BathNoise(7)
    steps = [0, 1, STEPS_PER_BLOCK, 2 * STEPS_PER_BLOCK + 5, 1]
    for step in steps:
        batch = together((5, 2, 9), step, like)
        assert torch.equal(batch[1], alone((2,), step, like[:1])[0])
    assert not torch.equal(together((5, 2, 9), 0, like), together((5, 2, 9), 1, like))
    assert not torch.equal(BathNoise(8)((5,), 0, like), BathNoise(7)((5,), 0, like))
    streams = [
        normal_block(seed, replica, purpose, block, (200,))
        for seed in (0, 1)
        for replica in (0, 1)
        for purpose in Purpose
        for block in (0, 1)
    ]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < 5 / np.sqrt(200)


def test_commit_takes_only_what_was_accepted() -> None:
    x = torch.arange(36.0, dtype=torch.float64).reshape(3, 4, 3)
    state = initial_state(x, x * 0, torch.zeros(3), x * 0, (0, 1, 2))
    moved = initial_state(x + 1, x, torch.ones(3), x, (0, 1, 2))
    kept = state.commit(moved, torch.tensor([True, False, True]))
    assert kept.active == (True, False, True)
    assert torch.equal(kept.positions[1], x[1])
    assert torch.equal(kept.positions[0], x[0] + 1)
    assert torch.equal(kept.energy, torch.tensor([1.0, 0.0, 1.0]).double())
    moving = kept.moving()
    assert moving.replicas == (0, 2)
    later = kept.commit(moving.with_velocities(moving.velocities + 5))
    assert later.active == (True, False, True)
    assert torch.equal(later.velocities[2], x[2] + 5)
    assert torch.equal(later.velocities[1], x[1] * 0)


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="positive masses"):
        System.build([1, 1], masses=[1.0, 0.0])
    with pytest.raises(DataError, match="a vector of the cell"):
        System.build([1, 1], pbc=[True, False, False])
    x = torch.zeros(2, 3, 3)
    with pytest.raises(DataError, match="not finite"):
        initial_state(x, x, torch.tensor([0.0, torch.nan]), x, (0, 1))
    with pytest.raises(DataError, match="shape"):
        initial_state(x, x, torch.zeros(3), x, (0, 1))
