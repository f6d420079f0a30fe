"""Warm starts: settings and split of the run they start from, new frames trained on, leaks said."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ase.io import write

import equimd
from equimd.config import parse_config
from equimd.data.frames import Frames
from equimd.errors import ConfigError
from equimd.run import Run
from equimd.tasks.train import stated_settings
from equimd.training.setup import Setup, complete, prepare
from equimd.training.warm import FINE_RATE, inherited, test_hashes
from tests.training.test_training import start
from tests.training.toy import SMALL, toy_config, toy_file, toy_frames

test_hashes.__test__ = False  # type: ignore[attr-defined]  # a function of equimd, not a test
STATED = {"num_epochs": 3, "lr": 4e-3, "loss": "mse", "energy_weight": 0.3, "batch_size_train": 6}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 training, 8 validation and 8 test frames."""
    folder = tmp_path_factory.mktemp("warm")
    start(toy_config(toy_file(folder / "old.xyz"), **STATED), folder / "run").fit()
    return folder / "run"


def with_new(first: Path, path: Path, count: int = 6) -> Path:
    """A file of the frames of the first run, and some new ones."""
    write(path, Frames.concatenate([toy_frames(), toy_frames(count, 9)]).to_ase(), format="extxyz")
    return path


def warm(first: Path, data: Path, **options: Any) -> Setup:
    given = {"init": str(first), "data": str(data), "energy_unit": "eV", **SMALL, **options}
    return prepare(complete(parse_config({**inherited(given), **given})))


def test_split_is_kept_and_new_frames_are_trained_on(first: Path, tmp_path: Path) -> None:
    run = Run.open(first)
    setup = warm(first, with_new(first, tmp_path / "more.xyz"))
    assert len(setup.train) == 30 and setup.test is not None and len(setup.test) == 8
    assert set(setup.hashes["val"]) == set(run.hashes("val"))
    assert set(setup.hashes["train"]) == set(run.hashes("train")) | set(toy_frames(6, 9).content_hashes())
    assert set(setup.test.frames().content_hashes()) == set(test_hashes(run))
    assert any("24 were trained on before, 6 are new" in note for note in setup.notes)
    assert not any("flatter" in text for text in setup.warnings)


def test_a_leak_is_said(first: Path, tmp_path: Path) -> None:
    setup = warm(first, with_new(first, tmp_path / "more.xyz"), splits=(26, 10, 10), seed=3)
    said = [text for text in setup.warnings if "will flatter" in text]
    assert len(said) == 2 and "validation frames were trained on by the model it starts from" in said[0]
    strangers = warm(first, toy_file(tmp_path / "others.xyz", 30, 11), splits=(20, 5, 5))
    assert not any("flatter" in text for text in strangers.warnings)


def test_settings_are_inherited_beneath_those_stated(first: Path) -> None:
    found = inherited({"init": str(first)})
    assert (found["loss"], found["energy_weight"], found["batch_size_train"]) == ("mse", 0.3, 6)
    assert found["lr"] == FINE_RATE and "num_epochs" not in found
    assert found["max_time"] == Run.open(first).info["training_seconds"]
    stated = inherited({"init": str(first), "loss": "l2mae", "num_epochs": 5, "lr": 1e-4})
    assert not stated.keys() & {"loss", "lr", "max_time", "num_epochs"}
    assert inherited({"init": str(first), "preset": "small"})["lr"] == FINE_RATE


def test_a_file_of_settings_inherits_what_it_does_not_state(first: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(f"init: {first}\nnum_epochs: 2\nloss: l2mae\n")
    config = stated_settings(tmp_path / "more.yaml", {"seed": 5})
    assert (config.training.loss, config.training.num_epochs, config.training.seed) == ("l2mae", 2, 5)
    assert (config.training.energy_weight, config.training.lr) == (0.3, FINE_RATE)


def test_without_known_frames_the_split_is_a_new_one(first: Path, tmp_path: Path) -> None:
    setup = warm(first, toy_file(tmp_path / "others.xyz", 40, 11))
    assert (len(setup.train), len(setup.val)) == (32, 4)


def test_time_that_ends_before_anything_is_learned_is_an_error(tmp_path: Path) -> None:
    data = toy_file(tmp_path / "water.xyz")
    with pytest.raises(ConfigError, match="before the model learned anything") as caught:
        equimd.train(data, out=tmp_path / "run", energy_unit="eV", max_time="0.01s", **SMALL)
    assert "--resume" in str(caught.value.hint) and Run.open(tmp_path / "run").info["status"] == "learned nothing"
    with suppress(ConfigError):  # seconds do not teach it much
        equimd.train(resume=tmp_path / "run", max_time="4s")
    assert Run.open(tmp_path / "run").info["steps"] > 0
