"""The learning suite: every way on a toy, what is not repeated, labels at equal error, tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from equimd import plots
from equimd.benchmarks.learning import chains, learning_suite, learning_tables
from equimd.benchmarks.learning.chains import METRICS, WAYS, Bench
from equimd.benchmarks.options import Options
from equimd.benchmarks.results import merge
from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.errors import MachineError
from tests.benchmarks.conftest import Toy
from tests.golden.shell import quick_layers
from tests.training.toy import SMALL, WATER, springs, toy_frames

TRAINING = {**SMALL, "num_epochs": 3, "lr": 1e-2, "warmup_steps": 2}
OPTIONS = {"budget_s": 1e6, "training": TRAINING, "first": 6, "molecule": "H2O"}  # epochs end trainings, not the time


def bench(work: Path) -> Bench:
    tests = {"300K": toy_frames(8, seed=3), "600K": toy_frames(8, seed=4)}
    pool, validation = toy_frames(24, seed=1), toy_frames(6, seed=2)
    return Bench(
        pool, validation, tests, work, cheap_frames=40, sampling={"interval": 5.0, "equilibration": 50.0}, **OPTIONS
    )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models are built and their curves drawn in less time than all that is done with models as small as these."""
    monkeypatch.setattr(plots, "curves", lambda *_: None)
    with quick_layers():
        yield


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each training is called with."""
    found: list[dict[str, Any]] = []

    def train(**given: Any) -> Any:
        found.append(given)
        return own(**given)

    own = chains.train
    monkeypatch.setattr(chains, "train", train)
    return found


def test_every_way_is_trained_once(
    tmp_path: Path, trainings: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_suite, "ethanol", lambda options: bench(tmp_path / "work"))
    options = Options((), budget_s=480.0, out=tmp_path / "out")
    table = learning_suite.run(options, sizes=(9,)).read_text()
    found = json.loads((options.out / "learning.json").read_text())["rows"]
    assert {row["name"] for row in found} == {
        f"bundled/ethanol/{test}-n9/{way}-seed0/{m}" for test in ("300K", "600K") for way in WAYS for m in METRICS
    }
    assert all(0 < row["value"] < 1e4 and row["n_train"] == 9 and row["preset"] == "small" for row in found)
    assert found[0]["command"].startswith("equimd bench learning --ways ensemble-3 --sizes 9 --seeds 0 --budget 8m")
    for way in WAYS.values():
        assert f"| {way.label} | 1 |" in table
    # a model of the first frames serves three ways, members and what learns from the cheap method have their own
    counts = [len(given["data"]) for given in trainings if isinstance(given["data"], ArrayDataset)]
    assert counts.count(6) == 3 + 1 + 1 and 5 <= counts.count(9) <= 7 and len(trainings) == len(counts) + 1
    assert sum("init" in given for given in trainings) == 3
    assert {given["max_time"] for given in trainings} == {1e6, 0.25e6, 2e6}
    assert (options.out / "learning.png").stat().st_size > 1000
    done = len(trainings)
    learning_suite.run(options, sizes=(9,))
    assert len(trainings) == done  # nothing finished is repeated


def test_a_chain_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(bench(tmp_path / "a").chain("logdet", 0, (9, 12)))
    assert [size for size, _ in whole] == [9, 12]
    own, calls = chains.train, []

    def train(**given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            given["out"].mkdir(parents=True)  # killed before its first checkpoint
            raise MachineError("killed")
        return own(**given)

    monkeypatch.setattr(chains, "train", train)
    with pytest.raises(MachineError, match="killed"):
        list(bench(tmp_path / "b").chain("logdet", 0, (9, 12)))
    assert list(bench(tmp_path / "b").chain("logdet", 0, (9, 12))) == whole
    assert [len(given["data"]) for given in calls] == [6, 9, 9, 12]


def test_the_difference_is_that_of_the_labels(tmp_path: Path) -> None:
    from equimd.methods import make_method

    own = bench(tmp_path)
    other = own.less_cheap()
    frame = own.pool.take([5])
    energy, forces = make_method("gfn1", frame.to_ase()[0]).label(frame.positions[0])
    assert other.pool.energy[5] == pytest.approx(frame.energy[0] - energy)
    assert np.allclose(other.pool.forces[5], frame.forces[0] - forces)
    assert other.labels != own.labels and np.array_equal(other.pool.positions, own.pool.positions)


def test_choices_take_what_is_far_from_what_is_known(toy: Toy) -> None:
    rest, far = toy_frames(12, seed=9), [3, 7]
    rest.positions[far] = WATER + np.random.default_rng(0).normal(0.0, 0.3, (2, 3, 3))
    energy, forces = zip(*(springs(x, WATER) for x in rest.positions), strict=True)
    rest = Frames.build(rest.numbers, rest.positions, np.array(energy), np.array(forces))
    for name in ("logdet", "sigma"):
        assert set(WAYS[name].choose([toy.model], toy_frames(50), rest, 2).tolist()) == set(far), name
    assert WAYS["random"].choose([], toy_frames(50), rest, 2).tolist() == [0, 1]


def test_an_ensemble_chooses_where_its_members_differ_most_on_an_atom(monkeypatch: pytest.MonkeyPatch) -> None:
    def member(scale: float) -> Any:  # in place of a model: it is wrong by a factor
        return SimpleNamespace(predict_frames=lambda frames: (frames.energy, scale * frames.forces))

    monkeypatch.setattr(chains, "LoadedModel", member)
    rest = toy_frames(12, seed=9)
    largest = np.linalg.norm(rest.forces, axis=2).max(1)
    found = WAYS["ensemble-3"].choose([0.9, 1.0, 1.1], rest, rest, 3)  # type: ignore[list-item]
    assert found.tolist() == np.argsort(-largest)[:3].tolist()


def power(scale: float, sizes: tuple[int, ...] = (50, 100, 200)) -> dict[int, float]:
    return {n: scale / n**0.5 for n in sizes}


def test_labels_at_equal_error_follow_a_power_law_exactly() -> None:
    base = power(100.0)
    assert learning_tables.labels_for(base, 100.0 / 130**0.5) == ("", pytest.approx(130))
    assert (
        learning_tables.labels_for(base, base[50]) == ("", 50) and learning_tables.labels_for(base, base[200])[1] == 200
    )
    assert learning_tables.labels_for(base, 99.0) == ("<", 50) and learning_tables.labels_for(base, 1.0) == (">", 200)
    assert learning_tables.labels_ratio(power(80.0), base) == ("", pytest.approx(0.64))
    assert learning_tables.labels_ratio(power(125.0), base) == ("", pytest.approx(1 / 0.64))
    assert learning_tables.labels_ratio(base, base) == ("", 1.0)
    assert learning_tables.labels_ratio(power(40.0), base) == ("<", 0.25)
    assert learning_tables.labels_ratio(power(300.0), base) == (">", 4.0)
    assert learning_tables.labels_for({50: 9.0, 100: 11.0, 200: 5.0}, 10.0) == ("<", 50)  # the first time


def test_tables_say_what_is_saved_and_what_is_lost(tmp_path: Path) -> None:
    options = Options((), budget_s=480.0)
    scales = {"random": (100.0, 100.0), "logdet": (80.0, 80.0), "sigma": (125.0, 80.0)}
    new = []
    for way, values in scales.items():
        for seed, scale in enumerate(values):
            for n, error in power(scale).items():
                errors = {test: dict.fromkeys(METRICS, error) for test in ("300K", "600K")}
                new += learning_suite.rows(way, seed, n, errors, options, (50, 100, 200))
    text = learning_tables.markdown(merge(tmp_path / "learning.json", "learning", new, {}))
    assert "trainings of 8 min, preset small" in text
    assert "| log det | 2 | 11.3 (11.3 to 11.3) | 8.0 (8.0 to 8.0) | 5.7 (5.7 to 5.7) |" in text
    assert "| largest sigma | 2 | 14.1 (11.3 to 17.7) |" in text
    assert "| log det | 0.64 | 36 % | 0.64, 0.64 | 0.64 | 36 % | 0.64, 0.64 |" in text
    assert re.search(r"\| largest sigma \| 1.00 \| -?0 % \| 1.56, 0.64 \|", text)
    assert "Not known" in learning_tables.markdown(merge(tmp_path / "l.json", "learning", new[-4:], {}))
