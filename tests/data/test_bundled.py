"""The bundled data is what its README says, and what GFN2-xTB gives."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from equimd.data import Split, bundled, open_dataset
from equimd.data.check import inspect
from equimd.data.methods import make_method
from equimd.data.sampling import broken_bonds, load_molecule
from equimd.errors import DataError
from equimd.units import KB

PARTS = {
    "ethanol-train": (1000, 5, 300),
    "ethanol-validation": (200, 2, 300),
    "ethanol-calibration": (1000, 5, 300),
    "ethanol-test": (1000, 5, 300),
    "ethanol-600K": (500, 5, 600),
    "ethanol-1000K": (500, 5, 1000),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_complete_and_sound(name: str) -> None:
    frames, trajectories, temperature = PARTS[name]
    data = open_dataset(f"bundled:{name}")
    data.verify()  # type: ignore[attr-defined]
    assert len(data) == frames
    assert len(np.unique(data.trajectory)) == trajectories
    assert data.elements == (1, 6, 8)
    block = data.frames()
    assert block.has_forces.all()
    assert block.energy.dtype == np.float64
    assert not broken_bonds(block.numbers[0], load_molecule("ethanol").positions, block.positions).any()
    extra = data.info.extra
    mean, error = float(extra["temperature_mean"]), float(extra["temperature_error"])  # type: ignore[arg-type]
    assert extra["temperature"] == temperature
    assert extra["interval"] == 100.0
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
    assert len(np.unique(data.trajectory)) == 17
    assert len(set(data.frames().content_hashes())) == 3200
    split = Split.load(bundled.split_file())
    assert split.sizes == (1000, 200, 1000)
    rows = {"train": split.train, "validation": split.val, "test": split.test}
    rows["calibration"] = np.array(json.loads(bundled.split_file().read_text())["calibration"])
    assert len(np.unique(np.concatenate(list(rows.values())))) == 3200
    for name, chosen in rows.items():
        part = open_dataset(f"bundled:ethanol-{name}").frames()
        np.testing.assert_array_equal(data.frames(chosen).energy, part.energy)
        others = np.setdiff1d(np.arange(3200), chosen)
        assert not set(data.trajectory[chosen]) & set(data.trajectory[others])


def test_all_of_it_is_about_two_megabytes() -> None:
    assert sum(p.stat().st_size for n in PARTS for p in bundled.paths(n)) < 2_100_000


def test_the_readme_states_the_commands_and_temperatures() -> None:
    text = (bundled.path("ethanol-train").parent / "README.md").read_text()
    for name, (frames, trajectories, temperature) in PARTS.items():
        extra = open_dataset(f"bundled:{name}").info.extra
        command = (
            rf"equimd data generate ethanol --temperature {temperature} +--frames {frames} +"
            rf"--trajectories {trajectories} --seed {extra['seed']} --out {name}\.h5"
        )
        assert re.search(command, text)
        mean, error = float(extra["temperature_mean"]), float(extra["temperature_error"])  # type: ignore[arg-type]
        assert f"| {mean:.1f} +- {error:.1f} |" in text


def test_names_are_listed_where_one_is_wrong() -> None:
    with pytest.raises(DataError, match="ethanol-calibration"):
        bundled.paths("methanol")
    with pytest.raises(DataError, match="4 files"):
        bundled.path("ethanol")
    assert bundled.path("Ethanol-600k").name == "ethanol-600K.h5"
