"""The dataset doctor finds what is wrong, and finds nothing wrong with good data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from equimd.data import ArrayDataset, Frames, open_dataset
from equimd.data.alignment import align, rmsd
from equimd.data.check import Report, inspect
from equimd.data.dataset import ConcatDataset, DatasetInfo, Units

SHARED = {
    "md17/md17_ethanol_2000.npz": {"net_force", "net_torque", "time_correlation"},
    "rmd17/rmd17_aspirin_train_01.npz": set(),
    "rmd17/rmd17_ethanol_test_01.npz": set(),
    "rmd17/rmd17_malonaldehyde_train_01.npz": set(),
    "rmd17/rmd17_salicylic_test_01.npz": set(),
    "ccsd/ethanol_ccsd_t-train.npz": {"duplicates"},
    "qm7x/qm7x_250_small.npz": set(),
    "acac/train_600K.xyz": {"net_torque"},
    "acac/test_dihedral.xyz": {"missing_forces"},
    "ethanol_botnet/isolated_atoms.xyz": {"missing_forces"},
    "omol25/aselmdb": {"mixed_charge_spin", "net_torque"},
}


def _codes(report: Report, severity: str | None = None) -> set[str]:
    return {p.code for p in report.problems if severity in (None, p.severity)}


def _spring(n_frames: int = 60, seed: int = 0, step: float = 0.02) -> Frames:
    """Frames of a bent molecule on springs between all atoms: exact energies and forces, small random steps."""
    rng = np.random.default_rng(seed)
    rest = np.array([[0.0, 0.0, 0.1], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0], [0.0, -1.4, 0.3]])
    walk = np.cumsum(rng.normal(size=(n_frames, 4, 3)) * step / 3, axis=0)
    x = rest + walk - walk[:1]
    i, j = np.triu_indices(4, 1)
    d0 = np.linalg.norm(rest[i] - rest[j], axis=-1)
    d = x[:, i] - x[:, j]
    length = np.linalg.norm(d, axis=-1)
    energy = 15.0 * ((length - d0) ** 2).sum(1) - 4000.0
    pull = -30.0 * ((length - d0) / length)[..., None] * d
    forces = np.zeros_like(x)
    for k in range(len(i)):
        forces[:, i[k]] += pull[:, k]
        forces[:, j[k]] -= pull[:, k]
    return Frames.build(np.array([8, 1, 1, 9]), x, energy, forces)


def _with(frames: Frames, **changes: object) -> ArrayDataset:
    from dataclasses import replace

    return ArrayDataset(replace(frames, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SHARED)
def test_real_data_gives_no_false_alarm(shared_data: Path, name: str) -> None:
    report = inspect(open_dataset(shared_data / name, check_units=False))
    assert _codes(report) == SHARED[name]
    assert not _codes(report, "error")
    assert report.units["source"] in ("inferred", "stated")


@pytest.mark.parametrize(
    ("name", "unit"), [("rmd17_aspirin_in_meV.xyz", "meV"), ("md17_ethanol_in_kcal_mol.xyz", "kcal/mol")]
)
def test_both_traps_are_flagged(shared_data: Path, name: str, unit: str) -> None:
    report = inspect(open_dataset(shared_data / "traps" / name, check_units=False))
    assert _codes(report) == {"units_mismatch"}
    assert f"probably {unit}" in report.problems[0].message
    assert report.units["source"] == "unknown"
    assert report.worst() == "error"
    assert report.statistics["forces_rms_eV_per_A"] is None


def test_good_frames_have_no_problem_but_their_order() -> None:
    report = inspect(ArrayDataset(_spring()))
    assert _codes(report) == {"time_correlation"}
    assert report.statistics["energy_force_slope"] == pytest.approx(1, abs=0.01)
    assert report.statistics["net_force_max_eV_per_A"] == pytest.approx(0, abs=1e-10)
    assert report.statistics["net_torque_max_eV"] == pytest.approx(0, abs=1e-10)
    shuffled = _spring(step=0.3).take(np.random.default_rng(0).permutation(60))
    assert inspect(ArrayDataset(shuffled)).statistics["neighbour_distance_ratio"] == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(23.0605, "kcal/mol"), (1 / 23.0605, "energies in kcal/mol"), (-1.0, "gradients"), (1e3, "meV")],
)
def test_forces_of_another_unit_or_sign_are_found(factor: float, words: str) -> None:
    frames = _spring()
    report = inspect(_with(frames, forces=frames.forces * factor))
    problem = next(p for p in report.problems if p.code == "energy_force_mismatch")
    assert words in problem.message
    assert problem.severity == "error"


def test_forces_on_the_wrong_atoms_are_found() -> None:
    frames = _spring(200)
    report = inspect(_with(frames, forces=frames.forces[:, [1, 2, 3, 0]]))
    assert "energy_force_mismatch" in _codes(report, "error")


def test_labels_of_other_frames_are_found(shared_data: Path) -> None:
    frames = open_dataset(shared_data / "md17" / "md17_ethanol_2000.npz").frames()
    mixed = np.random.default_rng(0).permutation(2000)
    report = inspect(_with(frames, forces=frames.forces[mixed]))
    assert "energy_force_mismatch" in _codes(report, "error")


def test_one_wrong_energy_is_found_and_named() -> None:
    frames = _spring()
    energy = frames.energy.copy()
    energy[30] += 0.1
    problem = next(p for p in inspect(_with(frames, energy=energy)).problems if p.code == "energy_force_outliers")
    assert problem.frames == (29, 30, 31)


def test_rotated_near_frames_are_still_consistent() -> None:
    frames = _spring()
    rng = np.random.default_rng(3)
    turns = np.linalg.qr(rng.normal(size=(len(frames), 3, 3)))[0]
    turns[np.linalg.det(turns) < 0, :, 0] *= -1
    report = inspect(_with(frames, positions=frames.positions @ turns, forces=frames.forces @ turns))
    assert report.statistics["energy_force_slope"] == pytest.approx(1, abs=0.01)
    assert "energy_force_mismatch" not in _codes(report)


def test_single_bad_frames_are_found() -> None:
    frames = _spring()
    x, e, f = frames.positions.copy(), frames.energy.copy(), frames.forces.copy()
    x[5, 1] = x[5, 0] + 0.1  # clash
    f[7] = np.nan  # no forces
    f[8, 2] = np.nan  # incomplete forces
    e[9] = np.nan
    f[11, 3] = 0.0  # as ASE does to a constrained atom
    f[12, 0, 0] += 200.0
    x[20] = x[19]  # a duplicate, and with another energy
    e[21] += 50.0
    report = inspect(_with(frames, positions=x, energy=e, forces=f))
    found = {p.code: p.frames for p in report.problems}
    assert found["clash"] == (5,)
    assert found["missing_forces"] == (7, 8)
    assert found["missing_energy"] == (9,)
    assert found["zero_forces"] == (11,)
    assert found["large_forces"] == (12,)
    assert 11 in found["net_force"]
    assert 12 in found["net_force"]
    assert found["duplicates"] == (20,)
    assert found["conflicting_labels"] == (19, 20)
    assert found["energy_outliers"] == (21,)
    ranks = [("error", "warning", "note").index(p.severity) for p in report.problems]
    assert ranks == sorted(ranks)


def test_mixed_states_are_listed() -> None:
    charge = np.zeros(60, np.int64)
    charge[3] = -1
    problem = next(p for p in inspect(_with(_spring(), charge=charge)).problems if p.code == "mixed_charge_spin")
    assert problem.frames == (3,)
    assert "charge -1" in problem.message


def test_states_that_cannot_be_are_named() -> None:
    spin = np.where(np.arange(60) == 7, 2, 1)  # OH2F has 19 electrons: a doublet, so all but frame 7 are wrong
    problem = next(p for p in inspect(_with(_spring(), spin=spin)).problems if p.code == "impossible_state")
    assert problem.count == 59 and 7 not in problem.frames and "1 with 19 electrons" in problem.message


@pytest.mark.parametrize(("depth", "a", "r0"), [(9.8, 2.7, 1.1), (5.9, 2.22, 0.92), (4.7, 1.94, 0.74)])
@pytest.mark.parametrize("order", ["scan", "random"])
def test_exact_frames_of_a_stiff_bond_are_not_accused(depth: float, a: float, r0: float, order: str) -> None:
    """Morse bonds like N2, HF and H2, also stretched and compressed: displacements are all along one stiff bond."""
    r = np.linspace(0.85 * r0, 2.2 * r0, 80)
    if order == "random":
        r = r0 * (1 + 0.1 * np.random.default_rng(0).normal(size=80))
    e = np.exp(-a * (r - r0))
    energy, slope = depth * (1 - e) ** 2, 2 * depth * a * (1 - e) * e
    x, forces = np.zeros((80, 2, 3)), np.zeros((80, 2, 3))
    x[:, 1, 2], forces[:, 1, 2], forces[:, 0, 2] = r, -slope, slope
    frames = Frames.build(np.array([7, 7]), x, energy - 2979.0, forces)
    report = inspect(ArrayDataset(frames))
    assert not {c for c in _codes(report) if "energy_force" in c}
    assert report.statistics["energy_force_slope"] == pytest.approx(1, abs=0.02)
    wrong = inspect(_with(frames, forces=frames.forces * 1.8897))
    assert "energy_force_mismatch" in _codes(wrong, "error")


def test_energies_of_several_states_are_not_compared() -> None:
    """Two surfaces 5 eV apart, frames in turn: neighbours in the file are of different states."""
    frames = _spring(80)
    charge = np.arange(80) % 2
    energy = frames.energy + 5.0 * charge
    report = inspect(_with(frames, charge=charge, energy=energy))
    assert not {c for c in _codes(report) if "energy_force" in c or "outliers" in c}
    assert report.statistics["energy_force_pairs"] > 10
    assert "energy_force_mismatch" in _codes(inspect(_with(frames, energy=energy)), "error")


def test_frames_shared_with_another_data_set_are_found() -> None:
    frames = _spring(100, step=0.5)
    first, second = ArrayDataset(frames.take(np.arange(60))), ArrayDataset(frames.take(np.arange(50, 100)))
    report = inspect(first, against=second)
    leak = next(p for p in report.problems if p.code == "leakage")
    assert leak.frames == tuple(range(10))
    assert leak.severity == "error"
    moved = frames.take(np.arange(60, 70))
    nudged = _with(moved, positions=moved.positions + np.array([3.0, 0, 0]) + 1e-3)
    near = inspect(ArrayDataset(frames.take(np.arange(60, 100))), against=nudged)
    assert "leakage" not in _codes(near)
    assert next(p for p in near.problems if p.code == "near_leakage").count == 10


def test_real_neighbours_leak(shared_data: Path) -> None:
    data = open_dataset(shared_data / "md17" / "md17_ethanol_2000.npz").frames()
    even, odd = ArrayDataset(data.take(np.arange(0, 2000, 2))), ArrayDataset(data.take(np.arange(1, 2000, 2)))
    report = inspect(even, against=odd)
    assert next(p for p in report.problems if p.code == "near_leakage").count > 990
    assert "leakage" not in _codes(report)


def test_the_correlation_time_of_a_known_process() -> None:
    rng = np.random.default_rng(0)
    keep, n = 0.9, 20_000  # integrated time keep / (1 - keep) = 9 rows
    noise = rng.normal(size=n) * np.sqrt(1 - keep**2)
    s = np.zeros(n)
    for k in range(1, n):
        s[k] = keep * s[k - 1] + noise[k]
    x = np.zeros((n, 2, 3))
    x[:, 1, 0] = 1.0 + 0.02 * s
    report = inspect(ArrayDataset(Frames.build(np.array([1, 1]), x, np.zeros(n))))
    assert report.statistics["correlation_time_frames"] == pytest.approx(9, rel=0.25)


def test_units_that_are_unknown_in_one_file_of_two() -> None:
    bad = DatasetInfo(
        "bad.xyz", "x", Units(source="unknown"), {"units_problem": {"code": "units_unknown", "message": "why"}}
    )
    both = ConcatDataset([ArrayDataset(_spring()), ArrayDataset(_spring(seed=1), bad)])
    report = inspect(both)
    problem = next(p for p in report.problems if p.code == "units_unknown")
    assert "bad.xyz: why" in problem.message
    assert report.units["source"] == "unknown"


def test_periodic_frames_measure_distances_across_the_border() -> None:
    x = np.array([[[0.05, 0, 0], [3.95, 0, 0], [2.0, 0, 0]]])
    cell = np.eye(3)[None] * 4.0
    frames = Frames.build(np.array([14, 14, 14]), x, np.zeros(1), cell=cell, pbc=np.ones((1, 3), bool))
    report = inspect(ArrayDataset(frames))
    assert report.statistics["min_distance_A"] == pytest.approx(0.1)
    assert "clash" in _codes(report)


def test_the_json_has_the_keys_that_scripts_rely_on() -> None:
    report = json.loads(json.dumps(inspect(ArrayDataset(_spring())).as_dict()))
    assert {"format", "n_frames", "n_atoms", "elements", "units", "has_forces", "problems"} <= set(report)
    assert report["n_atoms"] == [4, 4]
    assert report["elements"] == ["H", "O", "F"]
    assert {"energy", "forces", "source"} <= set(report["units"])
    assert all({"code", "message", "frames"} <= set(p) for p in report["problems"])


def test_alignment_recovers_a_rotation() -> None:
    frames = _spring(3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn[:, 0] *= np.sign(np.linalg.det(turn))
    rotation, _ = align(frames.positions @ turn, frames.positions)
    np.testing.assert_allclose(rotation, np.tile(turn.T, (3, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(rmsd(frames.positions, frames.positions @ turn + 5.0), 0, atol=1e-7)
    chiral = np.random.default_rng(1).normal(size=(1, 5, 3))
    assert rmsd(chiral, chiral * np.array([1, 1, -1.0])).min() > 0.3  # a mirror image is another molecule
