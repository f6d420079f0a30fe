"""Structures to any number, a training on shards of them by atoms, and one that is killed and goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import molecule
from typer.testing import CliRunner

from equimd.benchmarks.options import Options
from equimd.benchmarks.scale import scale_suite, structures, training
from equimd.cli.main import app
from equimd.data import open_dataset
from equimd.data.store import StoreDataset
from tests.training.toy import SMALL


def test_forces_are_the_gradient_and_states_agree_with_the_electrons() -> None:
    rng = np.random.default_rng(1)
    made = [structures.structure(rng) for _ in range(60)]
    sizes = [len(numbers) for numbers, *_ in made]
    assert min(sizes) < 10 and max(sizes) > 250
    assert all(2 <= n <= 350 for n in sizes)
    assert len({tuple(np.bincount(numbers, minlength=40)) for numbers, *_ in made}) > 50
    assert len({(charge, spin) for *_, charge, spin in made}) > 5
    for numbers, positions, charge, spin in made:
        assert (int(numbers.sum()) - charge - (spin - 1)) % 2 == 0
        apart = np.linalg.norm(positions[:, None] - positions, axis=-1) + 10 * np.eye(len(positions))
        assert apart.min() > 1.0
    numbers, positions, charge, spin = made[int(np.argmin(np.abs(np.array(sizes) - 12)))]
    forces = structures.labels(numbers, positions, charge, spin)[1]
    for atom, axis in ((0, 0), (3, 1), (len(numbers) - 1, 2)):
        energies = []
        for step in (1e-4, -1e-4):
            moved = positions.copy()
            moved[atom, axis] += step
            energies.append(structures.labels(numbers, moved, charge, spin)[0])
        assert -(energies[0] - energies[1]) / 2e-4 == pytest.approx(forces[atom, axis], abs=1e-6)


def in_this_process(settings: Mapping[str, Any], kill_at: int | None = None) -> None:
    """A training that ends after ``kill_at`` steps stands for one that is killed there."""
    training.watched({**settings, "began": time.time(), "steps": kill_at or settings["steps"]})


def test_a_training_on_shards_is_measured_and_goes_on_with_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_suite, "process", in_this_process)
    options = Options((), (), out=tmp_path / "out", work=tmp_path / "work")
    options.out.mkdir()
    small = {key: value for key, value in SMALL.items() if key != "threads"}
    asked: dict[str, Any] = {"frames": [200], "shards": 4, "max_atoms": 120, "sizes": (2, 40), "model": small}
    table = scale_suite.run(options, **asked, steps=8)
    found = json.loads((tmp_path / "out/scale.json").read_text())
    rows = {row["name"].rsplit("/", 1)[1]: row["value"] for row in found["rows"]}
    assert set(rows) == set(scale_suite.UNITS)
    assert {row["name"].rsplit("/", 1)[0] for row in found["rows"]} == {"scale/mixed/200/atoms-120"}
    assert rows["same_batches"] == 1.0
    assert rows["first_step_s"] > 0 and rows["peak_MiB"] > 50 and rows["atoms_per_s"] > 2 * rows["frames_per_s"]
    assert 0 <= rows["waiting_share"] < 1
    assert "| 200 | up to 120 atoms |" in table.read_text() and "| yes |" in table.read_text()
    work = tmp_path / "work/scale"
    lines = scale_suite.noted({"log": str(work / "whole.jsonl")})
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert max(line["atoms"] for line in lines) <= 120 and len({line["digest"] for line in lines}) == 8
    data = open_dataset(work / "mixed-200-in-4/2-40")
    assert len(data) == 200 and data.n_atoms.max() > 32  # no dense batches
    # what was measured is not measured again
    monkeypatch.setattr(scale_suite, "process", None)
    assert scale_suite.run(options, **asked, steps=8) == table


def test_frames_of_ethanol_are_trained_on_and_given_to_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = structures.ethanol_frames([3], 2)
    energies = []
    for step in (1e-4, -1e-4):
        moved = block.positions[1].copy()
        moved[4, 2] += step
        apart = np.linalg.norm(moved[:, None] - moved, axis=-1)
        rest = molecule("CH3CH2OH").get_all_distances()
        energies.append(structures.SPRING / 2 * np.square(np.triu(apart - rest)).sum())
    assert -(energies[0] - energies[1]) / 2e-4 == pytest.approx(block.forces[1, 4, 2], abs=1e-6)

    def here(words: str, folder: Path) -> dict[str, float]:
        result = CliRunner().invoke(app, [*words.split(), *(["--threads", "1"] if "calibrate" in words else [])])
        assert result.exit_code == 0, result.stderr
        return {"seconds": 1.0, "peak_MiB": 100.0}

    monkeypatch.setattr(scale_suite, "process", in_this_process)
    monkeypatch.setattr(scale_suite, "_command", here)
    options = Options((), (), out=tmp_path / "out", work=tmp_path / "work")
    options.out.mkdir()
    small = {key: value for key, value in SMALL.items() if key != "threads"}
    table = scale_suite.run(
        options, kind="ethanol", frames=[400], shards=2, steps=8, model={**small, "num_epochs": 1}
    ).read_text()
    names = {row["name"].rsplit("/", 1)[0] for row in json.loads((tmp_path / "out/scale.json").read_text())["rows"]}
    assert names == {f"scale/ethanol/400/{what}" for what in ("frames-10", *scale_suite.COMMANDS)}
    assert all(f"| {name} | ethanol | 400 | 1 | 100 |" in table for name in scale_suite.COMMANDS)
    assert "| ethanol | 400 | 10 frames |" in table
    assert len(open_dataset(tmp_path / "work/scale/converted.h5")) == 400


def test_a_batch_that_differs_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(settings: Mapping[str, Any], kill_at: int | None = None) -> None:
        other = kill_at is None and settings["run"].endswith("cut")
        about = {"frames": 1, "atoms": 2, "compiling": 0.0, "rss_MiB": 1.0, "peak_MiB": 1.0}
        text = [json.dumps({"step": k, "digest": str(k + other), "seconds": float(k), **about}) for k in range(1, 9)]
        Path(settings["log"]).write_text("\n".join(text) + "\n")

    monkeypatch.setattr(scale_suite, "process", lines)
    monkeypatch.setattr(scale_suite.Run, "open", lambda _: type("R", (), {"info": {"waiting_share": 0.0}}))
    found = scale_suite._measured(tmp_path, {"steps": 8, "frames": 10, "data": str(tmp_path)})
    assert (found["same_batches"], found["frames_per_s"], found["growth_MiB"]) == (0.0, 1.0, 0.0)


def test_shards_stay_in_memory_only_if_all_of_them_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structures.write_shards(tmp_path, 40, 4, sizes=(2, 6))
    atoms = open_dataset(tmp_path).n_atoms
    for limit, held in ((atoms.sum() * 48, True), (atoms.sum() * 48 - 1, False)):
        monkeypatch.setattr("equimd.data.store.MEMORY_LIMIT", limit)
        data = open_dataset([str(tmp_path / f"part{k}.h5") for k in range(4)])
        stores = [part for part in data.parts if isinstance(part, StoreDataset)]  # type: ignore[attr-defined]
        assert [store.memory > 0 for store in stores] == [held] * 4
        block = data.frames([39, 0, 21])
        assert np.array_equal(block.n_atoms, atoms[[39, 0, 21]])
        assert np.isfinite(block.energy).all()
