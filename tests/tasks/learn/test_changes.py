"""Settings change where labels do not help: the loss first, then the size of the model; never twice in two rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from equimd.data.frames import Frames
from equimd.labels.pool import LocalPool
from equimd.tasks.learn.journal import Journal
from equimd.tasks.learn.settings import LearnSettings
from equimd.tasks.learn.training import changes, in_words
from equimd.tasks.learn.work import Work
from tests.training.toy import WATER


def work(folder: Path, *errors: tuple[float, float]) -> Work:
    """After trainings with these errors of training and validation forces, eV/A."""
    folder.mkdir()
    journal = Journal(folder)
    for k, (train, val) in enumerate(errors):
        journal.finish(f"train-{k}", {"train_forces_mae": train, "val_forces_mae": val})
    template = Frames.build(np.array([8, 1, 1]), WATER[None])
    return Work(
        LearnSettings(molecule="water", error=0.1, preset="small"), folder, journal, LocalPool("gfn2"), template
    )


def path(made: Work, models: int) -> list[dict[str, Any]]:
    return [changes(made, k) for k in range(models)]


def test_loss_then_size_where_validation_stays_above(tmp_path: Path) -> None:
    made = work(tmp_path / "bad", *[(0.15, 0.2)] * 8)
    found = path(made, 8)
    assert [bool(f["why"]) for f in found] == [False, False, True, False, True, False, True, False]
    assert found[2]["values"] == {"energy_weight": 0.01, "forces_weight": 0.99}
    assert found[4]["values"]["preset"] == "default" and found[6]["values"]["preset"] == "accurate"
    assert "stayed above 0.1 eV/A" in str(in_words(found[2])) and in_words(found[3]) is None
    assert path(work(tmp_path / "other", (0.1, 0.2)), 2)[1]["values"] == {}


def test_training_far_below_validation_counts_too(tmp_path: Path) -> None:
    assert path(work(tmp_path / "fits", (0.01, 0.09), (0.01, 0.08)), 3)[2]["values"]["forces_weight"] == 0.99
    assert path(work(tmp_path / "small", (0.001, 0.03), (0.001, 0.03)), 3)[2]["values"] == {}
    assert path(work(tmp_path / "good", (0.05, 0.2), (0.05, 0.06)), 3)[2]["values"] == {}
