"""Warm starts (``train --init RUN``): what a training that begins from the model of another run takes over from it.

Its settings, where others are not stated; a peak rate for fine-tuning; its time, where none is stated; and its split:
frames that it validated and tested on keep their parts, all others are trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from equimd.config import PRESETS, RunConfig, TrainConfig
from equimd.data.content import Hashes
from equimd.data.dataset import Dataset, Subset, hashes_of
from equimd.data.given import BUNDLED, open_given
from equimd.data.split import Split
from equimd.errors import EquimdError
from equimd.run import MODEL_FILE, RUN_FILE, Run

FINE_RATE = 1e-3  # peak learning rate, at most: beyond, a trained model loses what it knows before it learns more
#: Rate and epochs for few frames, from a model of many cheap ones: with more it fits them and forgets the rest. The
#: rate also for 450 frames of acetylacetone: 1e-3 was better at their temperature and worse at twice that.
FEW_RATE, FEW_EPOCHS = 2e-4, 60
SPLIT_FILE = "split.json"
METHOD, FRAMES, MODEL = "method", "frames", "model"  # what a pretraining is given by
PRETRAINING, PRETRAINED = "pretrain", "pretrain/model"  # in a run's folder: all of it, and the run it ends with
#: What of a training is a choice about the model and its loss, and not about how long or where it runs.
INHERITED = (
    "batch_size_train", "max_atoms_per_batch", "oversized_frames", "weight_decay", "loss", "energy_weight",
    "forces_weight", "energy_loss_per_atom", "grad_clip", "ema_decay", "lr_schedule", "warmup_steps",
    "plateau_patience",
)  # fmt: skip


def source_of(pretrain: str) -> str:
    """Whether ``--pretrain`` names a run, frames, or a method that is to make them."""
    path = Path(pretrain)
    if (path / RUN_FILE).is_file():
        return MODEL
    if pretrain.startswith(BUNDLED) or path.exists() or any(c in pretrain for c in "*?["):
        return FRAMES
    return FRAMES if path.suffix and ":" not in pretrain else METHOD  # module:Class is a method


def start_of(config: RunConfig, run: Run | None) -> str | None:
    """The run whose model a training starts from: one that is stated, or what its own pretraining ended with."""
    t = config.training
    if t.init or not t.pretrain:
        return t.init
    if source_of(t.pretrain) == MODEL:
        return t.pretrain
    own = None if run is None else run.path / PRETRAINED
    return str(own) if own is not None and (own / MODEL_FILE).is_file() else None


def inherited(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a training takes from the run it starts from, beneath those given.

    Args:
        given: the settings stated, among them ``init``.

    Raises:
        RunError: there is no such run.
    """
    run = Run.open(str(given["init"]))
    old, stated = run.config.training, {**PRESETS.get(str(given.get("preset")), {}), **given}
    if "lr" not in given:
        stated.pop("lr", None)  # a preset's is for a fresh model
    values: dict[str, Any] = {key: getattr(old, key) for key in INHERITED}
    if "batch_size_train" in stated:
        values["max_atoms_per_batch"] = None
    values["lr"] = min(old.lr, FINE_RATE)
    if "num_epochs" not in stated and "max_time" not in stated:
        spent = float(run.info.get("training_seconds", 0.0))
        values |= {"max_time": spent} if spent > 0 else {"num_epochs": old.num_epochs}
    return {key: value for key, value in values.items() if key not in stated and value != _default(key)}


def _default(key: str) -> Any:
    return TrainConfig.model_fields[key].default


def frozen_split(init: Run, data: Dataset, seed: int) -> tuple[Split, str] | None:
    """The split of frames some of which the run it starts from knows, and a sentence on it: what validated and tested
    it does so again, everything else is trained on.

    Returns:
        None where no frame is one that the run validated on: there is no split to keep.
    """
    hashes = hashes_of(data)
    val = hashes.within(init.hashes("val"))
    test = hashes.within(test_hashes(init)) & ~val
    if not val.any():
        return None
    train = np.flatnonzero(~val & ~test)
    new = int((~hashes.within(init.hashes("train"))[train]).sum())
    text = (
        f"split of {init.path}: {int(val.sum())} frames validate and {int(test.sum())} test as they did, "
        f"{len(train) - new} were trained on before, {new} are new and trained on"
    )
    return Split(train, np.flatnonzero(val), np.flatnonzero(test), [], "frozen", seed, len(data)), text


def test_hashes(run: Run) -> Hashes:
    """Of the frames that a run was tested on, as far as they are where they were."""
    c = run.config.dataset
    try:
        if c.test_data:
            data, rows = open_given(c.test_data, c.reading), None
        else:
            data, rows = open_given(c.data, c.reading), Split.load(run.path / SPLIT_FILE).test
        return hashes_of(data if rows is None else Subset(data, rows))
    except (EquimdError, OSError, IndexError):
        return Hashes.joined([])


def leaks(init: Run, parts: Mapping[str, Hashes]) -> list[str]:
    """Sentences on frames that measure the errors of a model which was trained on them before.

    Args:
        parts: hashes of frames by what they are for, such as ``validation``.
    """
    trained = init.hashes("train")
    counts = {name: int(hashes.within(trained).sum()) for name, hashes in parts.items()}
    return [
        f"{count} {name} frames were trained on by the model it starts from ({init.path}): {name} errors will flatter"
        for name, count in counts.items()
        if count
    ]
