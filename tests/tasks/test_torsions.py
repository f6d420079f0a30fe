"""Turns of single bonds: the right bonds, the right geometry, and the canonical distribution of conformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimd.data import open_dataset
from equimd.data.system import System
from equimd.errors import ConfigError, DataError
from equimd.methods import make_method
from equimd.tasks.generate.sampling import Sampler, bonds, load_molecule
from equimd.tasks.generate.settings import GenerationSettings
from equimd.tasks.generate.task import sample
from equimd.tasks.generate.torsions import TorsionMoves, torsions, turned
from equimd.tasks.generate.trajectory import run_trajectory
from equimd.units import KB
from tests.dihedrals import dihedral

#: A chain of four atoms, trans.
CHAIN = np.array([[-0.5, 1.4, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [2.0, -1.4, 0.0]])
CARBON = np.full(4, 6)
BARRIER, TILT = 0.4, 0.05


def _double_well(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy (eV) and its derivative by the end-to-end distance: gauche and trans, 15 kT of 300 K apart."""
    s = r - 3.4
    energy = BARRIER * ((s / 0.55) ** 2 - 1) ** 2 - TILT * s
    return energy, BARRIER * 4 * s / 0.55**2 * ((s / 0.55) ** 2 - 1) - TILT


class Chain:
    """Four atoms with stiff bonds and angles, and a double well in the end-to-end distance."""

    theory = "chain"
    stiff = 60.0  # eV/A^2
    #: Rows are the distances 0-1, 1-2, 2-3, 0-2, 1-3 and, last, 0-3.
    differences = np.array([[-1, 1, 0, 0], [0, -1, 1, 0], [0, 0, -1, 1], [-1, 0, 1, 0], [0, -1, 0, 1], [-1, 0, 0, 1]])
    lengths = np.linalg.norm(differences @ CHAIN, axis=1)[:-1]

    def propagate(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        d = self.differences @ x
        r = np.sqrt((d * d).sum(1))
        stretch = r[:-1] - self.lengths
        well, slope = _double_well(r[-1])
        pull = np.append(self.stiff * stretch, slope) / r
        energy = 0.5 * self.stiff * float(stretch @ stretch) + float(well)
        return energy, -self.differences.T @ (pull[:, None] * d)

    label = propagate


def carbon(mass: float) -> System:
    """The chain's atoms, with masses of the test's own."""
    return System.build(CARBON, masses=np.full(4, mass))


def _exact_trans(temperature: float) -> float:
    """The part of the chain's torsion beyond 90 degrees, stiff bonds and angles at their lengths."""
    [found] = torsions(CARBON, CHAIN)
    angles = np.linspace(-np.pi, np.pi, 2001)[:-1]
    x = np.array([turned(CHAIN, found, a) for a in angles])
    weight = np.exp(-_double_well(np.linalg.norm(x[:, 3] - x[:, 0], axis=1))[0] / (KB * temperature))
    return float(weight[np.abs(dihedral(x, (0, 1, 2, 3))) > 90].sum() / weight.sum())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CH3CH2OH", [(1, 2, (3,))]),
        ("H2O2", [(0, 1, (3,))]),
        ("CH3COOH", [(0, 2, (3,))]),
        ("C2H6", []),
        ("C6H6", []),
        ("C2H4", []),
        ("CH3CONH2", []),
        ("CCH", []),
        ("H2O", []),
    ],
)
def test_bonds_that_give_other_conformers_are_found(
    name: str, expected: list[tuple[int, int, tuple[int, ...]]]
) -> None:
    atoms = load_molecule(name)
    assert [(t.start, t.end, t.moving) for t in torsions(atoms.numbers, atoms.positions)] == expected


def test_a_turn_moves_one_side_rigidly_by_the_angle() -> None:
    atoms = load_molecule("trans-butane")
    [found] = torsions(atoms.numbers, atoms.positions)
    x = turned(atoms.positions, found, 0.7)
    stays = np.setdiff1d(np.arange(len(x)), found.moving)
    np.testing.assert_array_equal(x[stays], atoms.positions[stays])
    for side in (stays, [found.start, found.end, *found.moving]):
        before, after = (np.linalg.norm(y[side][:, None] - y[side], axis=-1) for y in (atoms.positions, x))
        np.testing.assert_allclose(after, before, atol=1e-12)
    np.testing.assert_array_equal(bonds(atoms.numbers, x), bonds(atoms.numbers, atoms.positions))
    np.testing.assert_allclose(turned(x, found, -0.7), atoms.positions, atol=1e-12)
    angles = dihedral(np.stack([atoms.positions, x]), (0, found.start, found.end, 3))
    assert (angles[1] - angles[0]) % 360 == pytest.approx(np.degrees(0.7), abs=1e-9)


def test_turns_alone_give_the_boltzmann_distribution_of_the_torsion() -> None:
    temperature = 500.0
    md = Sampler(Chain(), carbon(1.0), CHAIN, temperature, 1.0, 0.01, seed=0)
    moves = TorsionMoves(torsions(CARBON, CHAIN), md, 0)
    path = []
    for _ in range(8000):
        moves.attempt()
        path.append(md.positions)
    _assert_trans(path, temperature)
    assert 0 < moves.accepted < moves.attempts == 8000


def _assert_trans(path: list[np.ndarray], temperature: float) -> None:
    """The chain is trans as often as the exact integral says, within four standard errors from blocks."""
    trans = np.abs(dihedral(np.array(path), (0, 1, 2, 3))) > 90
    blocks = trans.reshape(20, -1).mean(1)
    error = blocks.std(ddof=1) / np.sqrt(len(blocks))
    assert error < 0.04
    assert abs(blocks.mean() - _exact_trans(temperature)) < 4 * error


def test_md_with_turns_crosses_a_barrier_that_md_does_not() -> None:
    temperature, friction, dt, steps = 300.0, 0.02, 2.0, 8000

    def dynamics() -> Sampler:
        return Sampler(Chain(), carbon(12.0), CHAIN, temperature, dt, friction, seed=1)

    md = dynamics()
    moves = TorsionMoves(torsions(CARBON, CHAIN), md, 4)
    path, kinetic = [], []
    for _ in range(steps):
        kinetic.append(md.step())
        moves.step()
        path.append(md.positions)
    assert moves.attempts == steps // 4
    error = temperature * np.sqrt(2 / md.dof / (steps * dt * friction))
    assert abs(np.mean(kinetic) - temperature) < 4 * error
    np.testing.assert_allclose(md.positions.mean(0), 0, atol=1e-9)
    _assert_trans(path, temperature)
    alone = dynamics()
    for k in range(1500):
        alone.step()
        path[k] = alone.positions
    assert (np.abs(dihedral(np.array(path[:1500]), (0, 1, 2, 3))) > 90).all()


@pytest.mark.parametrize("broken", ["nan", "error"])
def test_a_turn_to_where_the_method_fails_is_refused(broken: str) -> None:
    class Fails(Chain):
        calls = 0

        def propagate(self, x: np.ndarray) -> tuple[float, np.ndarray]:
            self.calls += 1
            if self.calls == 1:
                return super().propagate(x)
            if broken == "error":
                raise DataError("no convergence")
            return float("nan"), np.full_like(x, np.nan)

    md = Sampler(Fails(), carbon(1.0), CHAIN, 300.0, 1.0, 0.01, seed=0)
    before = md.positions
    assert not TorsionMoves(torsions(CARBON, CHAIN), md, 0).attempt()
    np.testing.assert_array_equal(md.positions, before)
    assert np.isfinite(md.energy)


def test_generated_conformers_are_labelled_with_gfn2_and_reproducible(tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    config = GenerationSettings(
        molecule="H2O2", frames=8, trajectories=4, interval=20.0, time_step=2.5, equilibration=40.0, friction=0.02,
        torsion_interval=5.0, hydrogen_mass=5.0,
    )  # fmt: skip
    done = sample(config, tmp_path / "a.h5")
    assert done.turned is not None
    assert 0 < done.turned < 1
    again = sample(config, tmp_path / "b.h5")
    assert again.turned == done.turned
    data = open_dataset(tmp_path / "a.h5")
    block = data.frames()
    np.testing.assert_array_equal(block.positions, open_dataset(tmp_path / "b.h5").frames().positions)
    assert data.info.extra["turns_accepted"] == pytest.approx(done.turned)
    assert data.info.extra["torsion_interval"] == 5.0
    method = make_method("gfn2", load_molecule("H2O2"))
    for k in range(8):
        energy, forces = method.label(block.positions[k])
        assert energy == pytest.approx(block.energy[k], abs=1e-6)
        np.testing.assert_allclose(forces, block.forces[k], atol=1e-5)


def test_heavy_hydrogens_change_the_path_but_not_the_temperature() -> None:
    pytest.importorskip("tblite")
    light = GenerationSettings(
        molecule="H2O", frames=10, trajectories=1, interval=20.0, equilibration=50.0, friction=0.05
    )
    heavy = light.changed(hydrogen_mass=5.0, time_step=2.0)
    atoms = load_molecule("H2O")
    results = [run_trajectory(c, atoms, 0) for c in (light, heavy)]
    for r in results:
        assert abs(r.temperature_mean - 300) < 4 * r.temperature_error
    assert not np.allclose(results[0].positions, results[1].positions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torsion_interval": -5.0}, "torsion interval must not be negative"),
        ({"torsion_interval": 1.3}, "not a whole number"),
        ({"hydrogen_mass": -1.0}, "hydrogen mass must not be negative"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationSettings(molecule="H2O2", frames=8).changed(**change)


def test_turns_of_a_molecule_that_has_none_are_refused() -> None:
    pytest.importorskip("tblite")
    config = GenerationSettings(molecule="H2O", frames=1, trajectories=1, torsion_interval=20.0)
    with pytest.raises(DataError, match="no single bond"):
        run_trajectory(config, load_molecule("H2O"), 0)
