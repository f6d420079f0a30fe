"""Crystals and slabs by the command: bonds across boundaries, and slabs without a third vector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import equimd
from equimd.md.trajectory import read
from tests.md.test_periodic import SKEW, aluminium, in_cell
from tests.tasks.simulate.test_simulate import simulate
from tests.training.test_training import start
from tests.training.toy import toy_config

pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of aluminium after one epoch."""
    folder, frames = tmp_path_factory.mktemp("aluminium"), []
    for k in range(12):
        atoms = aluminium((2, 2, 1))
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        frames.append(atoms)
    write(folder / "al.extxyz", frames)
    start(toy_config(folder / "al.extxyz", splits=[8, 2, 2], num_epochs=1, cutoff=3.5), folder / "run").fit()
    return folder / "run"


def test_wrapped_bonds_are_whole_after_0_ps(run: Path, tmp_path: Path) -> None:
    atoms = in_cell(aluminium((3, 3, 2)), SKEW)
    atoms.wrap()
    write(tmp_path / "al.extxyz", atoms)
    told = simulate(run, tmp_path / "al.extxyz", "--steps", 0, "--out", tmp_path / "out", "--json")
    assert told.exit_code == 0, told.stderr
    bonds = json.loads(told.stdout)["bonds"]
    assert bonds["n_unstable"] == 0 and bonds["replicas"][0]["largest_deviation_A"] < 1e-9


def test_a_slab_needs_no_third_vector(run: Path, tmp_path: Path) -> None:
    full = aluminium((2, 2, 2))
    flat = in_cell(full, np.diag([1, 1, 0]), (1, 1, 0))
    energies = [p.energy for p in equimd.predict(run, [flat, Atoms(full, pbc=(1, 1, 0))])]
    write(tmp_path / "slab.extxyz", flat)
    told = simulate(run, tmp_path / "slab.extxyz", "--steps", 0, "--dtype", "float64", "--out", tmp_path / "out")
    assert told.exit_code == 0, told.stderr
    found = read(tmp_path / "out" / "trajectory.h5md").observables["potential_energy"][0]
    assert [found, found] == pytest.approx(energies, abs=1e-5)
