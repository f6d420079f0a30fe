"""The bundled data is what its README says, and what GFN2-xTB gives."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy.stats import chi2

from equimd.data import Dataset, Split, bundled, open_dataset
from equimd.data.check import inspect
from equimd.errors import DataError
from equimd.methods import make_method
from equimd.tasks.generate.sampling import broken_bonds, load_molecule, relax
from equimd.tasks.generate.torsions import torsions, turned
from equimd.units import KB
from tests.dihedrals import dihedral

PARTS = {
    "ethanol-train": (1000, 100, 300),
    "ethanol-validation": (200, 20, 300),
    "ethanol-calibration": (1000, 100, 300),
    "ethanol-test": (1000, 100, 300),
    "ethanol-600K": (500, 50, 600),
    "ethanol-1000K": (500, 50, 1000),
}
AT_300 = tuple(name for name, (_, _, temperature) in PARTS.items() if temperature == 300)
COCH = (0, 1, 2, 3)  # the torsion C-C-O-H of ASE's ethanol


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_complete_and_sound(name: str) -> None:
    frames, trajectories, temperature = PARTS[name]
    data = open_dataset(f"bundled:{name}")
    data.verify()  # type: ignore[attr-defined]
    assert len(data) == frames
    assert np.unique(data.trajectory, return_counts=True)[1].tolist() == [frames // trajectories] * trajectories
    assert data.elements == (1, 6, 8)
    block = data.frames()
    assert block.has_forces.all()
    assert block.energy.dtype == np.float64
    assert not broken_bonds(block.numbers[0], load_molecule("ethanol").positions, block.positions).any()
    extra = data.info.extra
    mean, error = float(extra["temperature_mean"]), float(extra["temperature_error"])  # type: ignore[arg-type]
    assert extra["temperature"] == temperature
    assert extra["interval"] == 100.0
    assert extra["molecule"] == "ethanol"
    assert abs(mean - temperature) < 3 * error
    assert error < 0.025 * temperature
    found = {p.code for p in inspect(data).problems}
    assert found <= {"time_correlation"}


@pytest.mark.parametrize("name", ["ethanol-train", "ethanol-test", "ethanol-600K", "ethanol-1000K"])
def test_the_positions_themselves_are_at_the_temperature(name: str) -> None:
    """Configurational temperature: k T = <|grad U|^2> / <laplacian U>, from the frames alone (Rugh, PRL 78, 772)."""
    pytest.importorskip("tblite")
    data = open_dataset(f"bundled:{name}")
    block = data.frames()
    method = make_method("tblite", load_molecule("ethanol"))
    step, laplacians = 2e-3, []
    for k in np.linspace(0, len(block) - 1, 8).astype(int):
        total = 0.0
        for atom, axis in np.ndindex(9, 3):
            moved = np.zeros((9, 3))
            moved[atom, axis] = step
            plus, minus = (method.propagate(block.positions[k] + s * moved)[1][atom, axis] for s in (1, -1))
            total -= (plus - minus) / (2 * step)
        laplacians.append(total)
    temperature = float((block.forces**2).sum((1, 2)).mean() / np.mean(laplacians) / KB)
    assert temperature == pytest.approx(PARTS[name][2], rel=0.06)


def _observables(data: Dataset) -> dict[str, np.ndarray]:
    """(T,) arrays that a difference between parts would show in."""
    block = data.frames()
    angle = dihedral(block.positions, COCH)
    trans = np.abs(angle) > 120
    return {
        "trans": trans.astype(float),
        "side": np.where(trans, 0.0, np.sign(angle)),
        "energy": block.energy,
        "squared force": (block.forces**2).mean((1, 2)),
        "squared force on O": (block.forces[:, 2] ** 2).mean(1),
    }


def _mean(values: np.ndarray, trajectory: np.ndarray) -> tuple[float, float, float]:
    """Mean, its standard error from the means of whole trajectories, and the frames one independent frame takes."""
    means = np.array([values[trajectory == k].mean() for k in np.unique(trajectory)])
    error = float(means.std(ddof=1) / np.sqrt(len(means)))
    return float(means.mean()), error, error**2 * len(values) / float(values.var())


def test_the_parts_at_300_k_are_samples_of_one_distribution() -> None:
    """Chi-squared of the four means with errors clustered by trajectory, for each observable; 0.1 % would fail."""
    parts = [open_dataset(f"bundled:{name}") for name in AT_300]
    found = [{k: _mean(v, d.trajectory) for k, v in _observables(d).items()} for d in parts]
    for observable in found[0]:
        mean, error = np.array([f[observable][:2] for f in found]).T
        pooled = np.average(mean, weights=error**-2)
        assert (((mean - pooled) / error) ** 2).sum() < chi2.ppf(0.999, len(parts) - 1), observable


@pytest.mark.parametrize("name", PARTS)
def test_frames_are_independent_and_both_conformers_are_there(name: str) -> None:
    frames, trajectories, _ = PARTS[name]
    data = open_dataset(f"bundled:{name}")
    observables = _observables(data)
    for observable, values in observables.items():
        assert _mean(values, data.trajectory)[2] < 2.5, observable  # 1 for independent frames
    side, error, _ = _mean(observables["side"], data.trajectory)
    assert abs(side) < 3.5 * error  # mirror images weigh the same
    assert 0.02 * frames < observables["trans"].sum() < 0.4 * frames
    energy = observables["energy"].reshape(trajectories, -1)  # the first frames are as the later ones
    early = energy[:, :2].mean(1) - energy[:, 2:].mean(1)
    assert abs(early.mean()) < 3.5 * early.std(ddof=1) / np.sqrt(trajectories)


@pytest.fixture(scope="module")
def harmonic() -> dict[str, tuple[float, float]]:
    """Energy (eV) and log of the harmonic configuration integral of gauche and trans ethanol in GFN2-xTB."""
    pytest.importorskip("tblite")
    atoms = load_molecule("ethanol")
    method = make_method("tblite", atoms)
    trans = relax(method, atoms.positions)
    [bond] = torsions(atoms.numbers, trans)
    found = {}
    for name, x in (("trans", trans), ("gauche", relax(method, turned(trans, bond, np.radians(120))))):
        rows = []
        for move in 5e-3 * np.eye(x.size).reshape(-1, *x.shape):
            plus, minus = (method.propagate(x + s * move)[1].ravel() for s in (1, -1))
            rows.append((minus - plus) / 1e-2)
        stiffness = np.linalg.eigvalsh(0.5 * (np.array(rows) + np.transpose(rows)))[6:]
        centred = x - x.mean(0)
        inertia = np.linalg.eigvalsh((centred**2).sum() * np.eye(3) - centred.T @ centred)
        found[name] = (method.propagate(x)[0], 0.5 * float(np.log(inertia).sum() - np.log(stiffness).sum()))
    return found


@pytest.mark.parametrize("temperature", [300, 600])
def test_conformers_have_about_their_harmonic_weight(
    harmonic: dict[str, tuple[float, float]], temperature: int
) -> None:
    """An estimate without sampling: classical harmonic oscillators and rigid rotation about each minimum."""
    energy = harmonic["gauche"][0] - harmonic["trans"][0]
    ratio = 2 * np.exp(harmonic["gauche"][1] - harmonic["trans"][1] - energy / (KB * temperature))
    parts = [open_dataset(f"bundled:{name}") for name, part in PARTS.items() if part[2] == temperature]
    trans = np.concatenate([_observables(d)["trans"] for d in parts]).mean()
    assert trans == pytest.approx(1 / (1 + ratio), rel=0.3)


def test_labels_are_those_of_gfn2() -> None:
    pytest.importorskip("tblite")
    block = open_dataset("bundled:ethanol-test").frames([0, 500, 999])
    method = make_method("tblite", load_molecule("ethanol"))
    for k in range(3):
        energy, forces = method.label(block.positions[k])
        assert energy == pytest.approx(block.energy[k], abs=1e-6)
        np.testing.assert_allclose(forces, block.forces[k], atol=1e-5)


def test_the_parts_at_300_k_are_separate() -> None:
    data = open_dataset("bundled:ethanol")
    assert len(data) == 3200
    assert len(np.unique(data.trajectory)) == 320
    assert len(set(data.frames().content_hashes())) == 3200
    split_file = bundled.path("ethanol-train").with_name("ethanol-split.json")
    split = Split.load(split_file)
    assert split.sizes == (1000, 200, 1000)
    rows = {"train": split.train, "validation": split.val, "test": split.test}
    rows["calibration"] = np.array(json.loads(split_file.read_text())["calibration"])
    assert len(np.unique(np.concatenate(list(rows.values())))) == 3200
    for name, chosen in rows.items():
        part = open_dataset(f"bundled:ethanol-{name}").frames()
        np.testing.assert_array_equal(data.frames(chosen).energy, part.energy)
        others = np.setdiff1d(np.arange(3200), chosen)
        assert not set(data.trajectory[chosen]) & set(data.trajectory[others])


def test_all_of_it_is_about_two_megabytes() -> None:
    assert sum(p.stat().st_size for n in PARTS for p in bundled.paths(n)) < 2_500_000


def test_the_readme_states_the_commands_and_temperatures() -> None:
    text = (bundled.path("ethanol-train").parent / "README.md").read_text()
    for name, (frames, trajectories, temperature) in PARTS.items():
        extra = open_dataset(f"bundled:{name}").info.extra
        command = (
            rf"equimd data generate ethanol --temperature {temperature} +--frames {frames} +"
            rf"--trajectories {trajectories} +--seed {extra['seed']} \$OPTIONS --out {name}\.h5"
        )
        assert re.search(command, text)
        for option in ("time_step", "hydrogen_mass", "friction", "equilibration", "torsion_interval"):
            assert f"--{option.replace('_', '-')} {extra[option]:g}" in text
        mean, error = float(extra["temperature_mean"]), float(extra["temperature_error"])  # type: ignore[arg-type]
        data = open_dataset(f"bundled:{name}")
        trans, spread, _ = _mean(_observables(data)["trans"], data.trajectory)
        row = f"| {mean:.1f} +- {error:.1f} | {100 * trans:.1f} +- {100 * spread:.1f} % |"
        assert row in text


def test_names_are_listed_where_one_is_wrong() -> None:
    with pytest.raises(DataError, match="ethanol-calibration"):
        bundled.paths("methanol")
    with pytest.raises(DataError, match="4 files"):
        bundled.path("ethanol")
    assert bundled.path("Ethanol-600k").name == "ethanol-600K.h5"


def test_the_part_for_validation_is_val_too() -> None:
    assert bundled.paths("ethanol-val") == bundled.paths("ethanol-validation")
    with pytest.raises(DataError, match="no bundled data set 'ethanol-vali'") as refused:
        bundled.paths("ethanol-vali")
    assert "ethanol-600K" in str(refused.value.hint)
