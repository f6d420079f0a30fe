"""Pretraining: frames made by a cheap method, given frames, a given run; its time; how it goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import equimd
from equimd.config import parse_config
from equimd.errors import ConfigError, EquimdError, Interrupted
from equimd.methods import make_method
from equimd.progress import Progress
from equimd.run import Run
from equimd.tasks import pretrain
from equimd.tasks.generate import cheap
from equimd.tasks.train import stated_settings
from equimd.training.warm import FEW_RATE, FRAMES, METHOD, MODEL, source_of
from equimd.units import KB

TINY: dict[str, Any] = {
    "num_features": 8, "num_layers": 1, "lmax": 1, "num_epochs": 2, "splits": (20, 6, 0), "compile": "off",
    "device": "cpu",
}  # fmt: skip


def water(count: int = 26, *, calculator: str = "gfn2", seed: int = 0) -> list[Atoms]:
    pytest.importorskip("tblite")
    rng, start = np.random.default_rng(seed), molecule("H2O")
    method, found = make_method(calculator, start), []
    for _ in range(count):
        atoms = Atoms(start.numbers, start.positions + rng.normal(0, 0.04, (3, 3)))
        energy, forces = method.label(atoms.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        found.append(atoms)
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trajectories, made in this process, whose cost does not depend on what else the machine does."""
    monkeypatch.setattr(pretrain, "cores", lambda: 1)
    monkeypatch.setattr(cheap, "step_seconds", lambda *_: 2e-3)
    monkeypatch.setattr(cheap, "EQUILIBRATION", 50.0)
    monkeypatch.setattr(cheap, "FEWEST", 20)
    monkeypatch.setattr(cheap, "MOST", 40)


def test_what_a_pretraining_is_given_by(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    assert source_of(str(tmp_path / "run")) == MODEL
    for frames in ("bundled:ethanol-train", "frames.h5", "part*", str(tmp_path / "folder")):
        assert source_of(frames) == FRAMES
    for method in ("gfn2", "gfn1", "emt", "my.module:Class"):
        assert source_of(method) == METHOD


def test_the_temperature_of_structures_is_that_of_their_energies() -> None:
    rng, modes = np.random.default_rng(1), 21
    kt = KB * 450.0
    energies = 0.5 * kt * (rng.standard_normal((4000, modes)) ** 2).sum(1) - 4000.0
    assert pretrain.temperature_of(energies, 9) == pytest.approx(450.0, rel=0.03)
    assert pretrain.temperature_of(energies[:5], 9) == pretrain.USUAL
    assert pretrain.temperature_of(np.full(50, np.nan), 9) == pretrain.USUAL
    assert pretrain.temperature_of(np.zeros(50), 9) == pretrain.COLDEST


def test_molecules_of_the_training_frames_and_their_states(tmp_path: Path) -> None:
    from equimd.data.given import open_given

    frames = water(4)
    anion = [Atoms("OH", [[0, 0, 0], [0, 0, 0.96 + 0.01 * k]], info={"charge": -1, "spin": 1}) for k in range(3)]
    for k, atoms in enumerate(anion):
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * k, forces=np.zeros((2, 3)))
    found = pretrain.molecules_of(open_given([*frames, *anion]), 0)
    assert {len(m.structures) for m in found} == {4, 3}
    charged = next(m for m in found if len(m.structures) == 3)
    assert all(a.info == {"charge": -1, "spin": 1} for a in charged.structures)
    starts, states = pretrain._starts(found)
    assert len(starts) == 2 and set(states) == {(-1, 1), (None, 0)}
    frames[0].pbc = True
    frames[0].cell = [9, 9, 9]
    with pytest.raises(ConfigError, match="periodic"):
        pretrain.molecules_of(open_given(frames[:1]), 0)


@pytest.mark.usefixtures("quick")
def test_frames_are_made_and_the_training_starts_from_their_model(tmp_path: Path) -> None:
    said: list[str] = []
    given = {**TINY, "pretrain": "gfn1", "pretrain_time": 2.0, "num_epochs": 0}
    done = equimd.train(water(), out=tmp_path / "run", progress=lambda p: said.append(p.stage), **given)
    info = Run.open(done.run).info["pretraining"]
    assert info["theory"] == "GFN1-xTB" and info["status"] == "completed" and info["epochs"] > 0
    assert info["temperatures_K"][1] - info["temperatures_K"][0] == pretrain.HOTTER
    own = Run.open(done.run / "pretrain" / "model")
    assert own.info["status"] == "completed" and own.config.training.lr == 1e-3
    assert Run.open(done.run).config.training.lr == FEW_RATE
    assert {"cheap frames", "pretraining"} <= set(said)
    assert not list((done.run / "pretrain").glob("*.npz"))
    # without an epoch of its own it is the model of the cheap frames, at another zero of energy
    for mine, theirs in zip(*(equimd.predict(run, water(3)) for run in (done.run, own.path)), strict=True):
        np.testing.assert_allclose(mine.forces, theirs.forces, atol=1e-6)
    # with epochs it goes on from its own checkpoint, without another pretraining
    more = equimd.train(resume=done.run, num_epochs=1)
    assert more.epochs == 1 and Run.open(done.run).info["pretraining"] == info


@pytest.mark.usefixtures("quick")
def test_stopped_in_its_pretraining_it_goes_on(tmp_path: Path) -> None:
    def stop(event: Progress) -> None:
        if event.stage == "pretraining" and event.kind == "line":
            raise KeyboardInterrupt

    given = {"pretrain": "gfn1", "pretrain_time": 2.0, **TINY}
    with pytest.raises(Interrupted, match="interrupted in its pretraining; go on with: equimd train --resume"):
        equimd.train(water(), out=tmp_path / "run", progress=stop, **given)
    plan = json.loads((tmp_path / "run" / "pretrain" / "plan.json").read_text())
    done = equimd.train(resume=tmp_path / "run")
    info = Run.open(done.run).info["pretraining"]
    assert done.status == "completed" and info["status"] == "completed" and plan.items() <= info.items()


def test_frames_and_a_run_are_given(tmp_path: Path) -> None:
    frames = water(calculator="gfn1", seed=1)
    write(tmp_path / "cheap.xyz", frames, format="extxyz")
    given = {"pretrain_time": 1.0, **TINY}
    first = equimd.train(water(), out=tmp_path / "first", pretrain=str(tmp_path / "cheap.xyz"), **given)
    assert Run.open(first.run).info["pretraining"]["frames"] == len(frames)
    second = equimd.train(water(), out=tmp_path / "second", pretrain=str(first.run / "pretrain" / "model"), **TINY)
    assert not (second.run / "pretrain").exists()
    # the same start, frames, rate and seed
    rows = [r.metrics["val_forces_mae_meV_per_A"] for r in (first, second)]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pretrain": "gfn7"}, "unknown calculator 'gfn7'"),
        ({"pretrain": "gfn2", "init": "runs/other"}, "leave one of them out"),
        ({"pretrain_time": 30.0}, "and for pretrain"),
        ({"pretrain": "gfn2", "pretrain_time": 30.0, "max_time": 20.0}, "a part of max_time, below it"),
        ({"pretrain": "nothing.xyz"}, "nothing.xyz"),
        ({"pretrain": "gfn2"}, "labelled by GFN2-xTB themselves"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    with pytest.raises(EquimdError) as caught:
        equimd.train("bundled:ethanol-train", out=tmp_path / "run", **given)
    assert said in str(caught.value) and not (tmp_path / "run").exists()


def test_settings_beneath_those_stated() -> None:
    given = {"data": "bundled:ethanol", "pretrain": "gfn1"}
    assert stated_settings(None, given).training.lr == FEW_RATE
    assert stated_settings(None, {**given, "lr": 5e-4}).training.lr == 5e-4
    assert stated_settings(None, {**given, "preset": "accurate"}).training.lr == FEW_RATE
    config = pretrain._of_pretraining(parse_config({**given, "lmax": 1, "lr": FEW_RATE}), "cheap.h5", 60.0)
    assert config.training.lr == 1e-3 and config.training.max_time == 60.0 and config.training.pretrain is None


@pytest.mark.usefixtures("quick")
def test_too_little_time_is_said_before_frames_are_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frames would take") as caught:
        equimd.train(water(), out=tmp_path / "run", pretrain="gfn1", pretrain_time=1e-3, **TINY)
    assert "--pretrain-time" in str(caught.value)
