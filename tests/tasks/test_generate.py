"""MD that makes labelled frames: exact in its limits, at the stated temperature, reproducible, resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimd.data import open_dataset
from equimd.data.system import System
from equimd.errors import ConfigError, DataError
from equimd.methods import make_method
from equimd.tasks.generate.sampling import Sampler, broken_bonds, load_molecule, relax
from equimd.tasks.generate.settings import GenerationSettings
from equimd.tasks.generate.task import Trajectory, check_temperature, run_trajectories, sample
from equimd.units import ACCELERATION, KB

FAST = GenerationSettings(
    molecule="Al3.xyz", temperature=200.0, frames=6, trajectories=2, interval=20.0, time_step=2.0, equilibration=40.0,
    calculator="emt",
)  # fmt: skip


class Springs:
    """Independent harmonic oscillators of frequency 0.7 rad/fs, faster than an O-H bond, for unit masses."""

    theory = "springs"
    constant = 0.7**2 / ACCELERATION

    def propagate(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        return 0.5 * self.constant * float((positions**2).sum()), -self.constant * positions

    label = propagate


def hydrogen(n: int) -> System:
    """Atoms of unit mass."""
    return System.build(np.ones(n), masses=np.ones(n))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An aluminium trimer, which EMT treats in no time, in the working folder."""
    monkeypatch.chdir(tmp_path)
    text = "3\n\nAl 0 0 0\nAl 2.6 0 0\nAl 1.3 2.25 0\n"
    (tmp_path / "Al3.xyz").write_text(text)
    return tmp_path


def test_positions_and_velocities_are_at_the_stated_temperature_with_a_long_step() -> None:
    n = 40
    md = Sampler(Springs(), hydrogen(n), np.zeros((n, 3)), 300.0, 1.0, 0.05, seed=0)
    for _ in range(500):
        md.step()
    kinetic, potential = [], []
    for _ in range(8000):
        kinetic.append(md.step())
        potential.append(2 * Springs().propagate(md.positions)[0] / (md.dof * KB))
    assert np.mean(kinetic) == pytest.approx(300, rel=0.02)
    assert np.mean(potential) == pytest.approx(300, rel=0.02)
    np.testing.assert_allclose(md.positions.mean(0), 0, atol=1e-12)


def test_without_friction_energy_is_conserved() -> None:
    rng = np.random.default_rng(1)
    md = Sampler(Springs(), hydrogen(5), rng.normal(size=(5, 3)) * 0.1, 300.0, 0.05, 1e-12, seed=1)

    def total() -> float:
        return Springs().propagate(md.positions)[0] + 0.5 * float((md.velocities**2).sum()) / ACCELERATION

    start = total()
    for _ in range(2000):
        md.step()
    assert total() == pytest.approx(start, rel=2e-3)


def test_the_frames_are_labelled_reproducible_and_of_separate_trajectories(cluster: Path) -> None:
    first = sample(FAST, cluster / "a.h5")
    again = sample(FAST, cluster / "b.h5", jobs=2)
    other = sample(FAST.changed(seed=1), cluster / "c.h5")
    assert (first.frames, first.trajectories, first.theory) == (6, 2, "emt")
    assert again.temperature_mean == first.temperature_mean != other.temperature_mean
    a, b = open_dataset(cluster / "a.h5"), open_dataset(cluster / "b.h5")
    np.testing.assert_array_equal(a.frames().positions, b.frames().positions)
    np.testing.assert_array_equal(a.frames().energy, b.frames().energy)
    assert a.trajectory.tolist() == [0, 0, 0, 1, 1, 1]
    assert a.time_index.tolist() == [10, 20, 30] * 2  # type: ignore[attr-defined]
    block = a.frames()
    assert block.has_forces.all()
    assert len(set(block.content_hashes())) == 6
    method = make_method("emt", load_molecule("Al3.xyz"))
    for k in range(6):
        energy, forces = method.label(block.positions[k])
        assert block.energy[k] == pytest.approx(energy, abs=1e-12)
        np.testing.assert_allclose(block.forces[k], forces, atol=1e-12)
    assert a.info.extra["theory"] == "emt"
    assert a.info.extra["temperature"] == 200.0
    assert not (cluster / "a.h5.parts").exists()


def test_finished_trajectories_are_not_made_again(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from equimd.tasks.generate import task as module

    made: list[int] = []
    real = module.run_trajectory

    def interrupted(config: GenerationSettings, atoms: object, index: int, progress: object = None) -> Trajectory:
        if index == 1 and not made.count(1):
            made.append(1)
            raise KeyboardInterrupt
        made.append(index)
        return real(config, atoms, index, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "run_trajectory", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(FAST, cluster / "a.h5")
    assert not (cluster / "a.h5").exists()
    sample(FAST, cluster / "a.h5")
    assert made == [0, 1, 1]  # the second attempt makes the second trajectory only


def test_other_settings_do_not_use_the_same_parts(cluster: Path) -> None:
    cold = run_trajectories(FAST, cluster / "work")
    warm = run_trajectories(FAST.changed(temperature=400.0), cluster / "work")
    assert cold[0].temperature_mean != warm[0].temperature_mean


def test_extended_xyz_keeps_labels_and_trajectories(cluster: Path) -> None:
    sample(FAST, cluster / "a.h5")
    sample(FAST, cluster / "a.xyz")
    store, text = open_dataset(cluster / "a.h5").frames(), open_dataset(cluster / "a.xyz")
    np.testing.assert_allclose(text.frames().forces, store.forces, atol=1e-11)
    np.testing.assert_array_equal(text.frames().energy, store.energy)


def test_a_mean_temperature_that_is_off_is_refused() -> None:
    def made(mean: float) -> Trajectory:
        x = np.zeros((3, 3, 3))
        return Trajectory(np.ones(3, int), x, np.zeros(3), x, mean, 2.0, np.zeros(3, bool), "none")

    assert check_temperature(FAST, [made(196.0), made(206.0)])[0] == pytest.approx(201.0)
    with pytest.raises(DataError, match=r"mean temperature is 230\.0 K, not 200 K"):
        check_temperature(FAST, [made(230.0), made(230.0)])


def test_open_bonds_are_seen() -> None:
    atoms = load_molecule("H2O")
    apart = atoms.positions.copy()
    apart[1] += 3 * (apart[1] - apart[0])
    broken = broken_bonds(atoms.numbers, atoms.positions, np.stack([atoms.positions, apart]))
    assert broken.tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above zero"),
        ({"frames": 1}, "1 frames cannot come from 2 trajectories"),
        ({"interval": 21.0}, "whole number"),
        ({"equilibration": -1.0}, "negative"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FAST.changed(**change)


def test_bad_molecules_and_calculators_are_refused(cluster: Path) -> None:
    (cluster / "fixed.xyz").write_text("1\nProperties=species:S:1:pos:R:3:move_mask:L:1\nH 0 0 0 F\n")
    with pytest.raises(DataError, match="holds atoms fixed"):
        load_molecule("fixed.xyz")
    with pytest.raises(DataError, match="neither a file nor a molecule"):
        load_molecule("unobtainium")
    (cluster / "broken.xyz").write_text("3\n\nAl 0 0")
    with pytest.raises(DataError, match="ends within frame 0, after 1 of 3 atoms"):
        load_molecule("broken.xyz")
    with pytest.raises(DataError, match="single atom"):
        sample(FAST.changed(molecule="Al"), cluster / "x.h5")
    with pytest.raises(ConfigError, match="unknown calculator"):
        sample(FAST.changed(calculator="orca"), cluster / "x.h5")
    with pytest.raises(DataError, match="ending"):
        sample(FAST, cluster / "x.csv")
    with pytest.raises(DataError, match="cannot compute"):
        sample(FAST.changed(molecule="CH3Cl", trajectories=1), cluster / "x.h5")


def test_a_folder_of_the_same_name_does_not_hide_a_molecule(cluster: Path) -> None:
    (cluster / "ethanol").mkdir()
    assert load_molecule("ethanol").get_chemical_formula() == "C2H6O"
    (cluster / "unobtainium").mkdir()
    with pytest.raises(DataError, match="unobtainium"):
        load_molecule("unobtainium")


def test_relaxing_ends_at_a_minimum() -> None:
    pytest.importorskip("tblite")
    atoms = load_molecule("water")
    method = make_method("tblite", atoms)
    x = relax(method, atoms.positions + 0.05 * np.random.default_rng(0).normal(size=(3, 3)))
    _, forces = method.label(x)
    assert np.abs(forces).max() < 0.03
    assert np.linalg.norm(x[1] - x[0]) == pytest.approx(0.96, abs=0.02)


def test_gfn2_labels_depend_on_the_geometry_alone_and_follow_the_energy() -> None:
    pytest.importorskip("tblite")
    atoms = load_molecule("H2O")
    x = atoms.positions + 0.05 * np.random.default_rng(0).normal(size=(3, 3))
    method = make_method("tblite", atoms)
    energy, forces = method.label(x)
    method.propagate(x + 0.2)
    assert method.label(x)[0] == energy
    step = 1e-3
    for atom, axis in ((0, 0), (1, 1), (2, 2)):
        moved = np.zeros_like(x)
        moved[atom, axis] = step
        slope = (method.label(x + moved)[0] - method.label(x - moved)[0]) / (2 * step)
        assert forces[atom, axis] == pytest.approx(-slope, abs=5e-4)
    charged = make_method("tblite", atoms, charge=1)
    assert charged.label(x)[0] - energy > 5.0  # eV, an ionisation energy
