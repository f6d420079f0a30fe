"""Batches by atoms: none too large, few shapes, the same again after an interruption."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.io import write

from equimd.config import parse_config
from equimd.data.batch import Batch
from equimd.data.dataset import ArrayDataset
from equimd.errors import DataError
from equimd.files import load_tensors
from equimd.run import Run
from equimd.training.batching import Batching
from equimd.training.loader import FrameSource
from equimd.training.loop import Trainer
from equimd.training.parallel import Processes
from equimd.training.setup import complete, prepare
from tests.training.test_training import go_on, same, start, weights
from tests.training.toy import toy_config, toy_file, toy_frames

SMALL = np.random.default_rng(0).integers(2, 33, 3000)
LARGE = np.random.default_rng(1).integers(2, 351, 3000)


def batching(sizes: np.ndarray, max_atoms: int, seed: int = 0) -> Batching:
    return Batching.of(parse_config({"max_atoms_per_batch": max_atoms, "seed": seed}).training, sizes, False)


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
def test_each_frame_once_and_no_batch_too_large(sizes: np.ndarray) -> None:
    orders = [batching(sizes, 1000, seed).epoch(epoch) for seed, epoch in ((3, 0), (3, 0), (3, 1), (4, 0))]
    for order in orders:
        assert sorted(np.concatenate(order).tolist()) == list(range(3000))
        atoms = np.array([sizes[index].sum() for index in order])
        assert atoms.max() <= 1000
        assert atoms.mean() > 850
    assert all(np.array_equal(a, b) for a, b in zip(orders[0], orders[1], strict=True))
    assert not np.array_equal(np.concatenate(orders[0]), np.concatenate(orders[2]))
    assert not np.array_equal(np.concatenate(orders[0]), np.concatenate(orders[3]))


def test_large_structures_come_mixed_with_small_ones() -> None:
    means = [LARGE[index].mean() for index in batching(LARGE, 2000).epoch(0)]
    assert np.std(means) < 45.0  # of 11 structures: 101 / sqrt(11) = 30; batches of like sizes would have 101


def test_small_structures_come_in_as_many_shapes_as_can_be_compiled() -> None:
    for epoch in range(2):
        order = batching(SMALL, 500).epoch(epoch)
        slots = np.array([-(-SMALL[index].max() // 4) * 4 for index in order])
        full = np.array([len(index) for index in order]) == 500 // slots
        assert len(set(slots.tolist())) <= 8
        assert (~full).sum() <= 8  # what is left over of each
        assert abs(np.corrcoef(np.arange(len(order)), slots)[0, 1]) < 0.3


def test_compiled_batches_are_padded_to_one_shape_for_each_width() -> None:
    from equimd.config import ModelConfig
    from equimd.model.build import build_model
    from equimd.training.step import TrainStep

    frames = toy_frames(40, mixed=True)
    source = FrameSource(ArrayDataset(frames), None, 5.0, torch.float32)
    config = ModelConfig(elements=(1, 8), num_features=4, num_layers=1, lmax=1, num_readout=4)
    sizes = np.unique(source.sizes).tolist()
    made = [
        TrainStep(build_model(config), energy_weight=1, forces_weight=1, max_atoms=13, sizes=sizes, processes=p)
        for p in (Processes(), Processes(0, 3))
    ]
    for step, shapes in zip(made, ({(4, 3), (6, 2)}, {(2, 3), (2, 2)}), strict=True):
        found = set()
        for index in step.processes.parts(batching(source.sizes, 13).epoch(0)):
            padded: Batch = step._padded(source.batch(index))
            found.add((padded.num_structures, padded.num_slots))
        assert found == shapes


def test_processes_have_as_many_batches_and_about_as_many_atoms() -> None:
    order = batching(LARGE, 3000).epoch(0)
    parts = [Processes(rank, 3).parts(order) for rank in range(3)]
    assert [len(part) for part in parts] == [len(order)] * 3
    atoms = np.array([[LARGE[index].sum() for index in part] for part in parts])
    assert np.array_equal(atoms.sum(0), [LARGE[index].sum() for index in order])
    assert (atoms.max(0) / atoms.mean(0)).mean() < 1.1


def test_structures_that_fit_no_batch_are_refused_or_left_out(tmp_path: Path) -> None:
    data = toy_file(tmp_path / "mixed.xyz", mixed=True)
    with pytest.raises(DataError, match=r"of 24 training frames have more atoms than --max-atoms-per-batch 2") as info:
        prepare(complete(toy_config(data, max_atoms_per_batch=2)))
    assert info.value.hint == "--max-atoms-per-batch 3 takes all; --oversized-frames drop leaves these out"
    hydrogen = toy_frames(40, mixed=True).take(np.arange(2, 40, 3))
    write(tmp_path / "hydrogen.xyz", hydrogen.to_ase(), format="extxyz")
    options = {"splits": (40, 0, 0), "val_data": str(tmp_path / "hydrogen.xyz"), "oversized_frames": "drop"}
    setup = prepare(complete(toy_config(data, max_atoms_per_batch=2, **options)))
    assert setup.train.n_atoms.tolist() == [2] * 13
    text = "27 of 40 training frames have more atoms than --max-atoms-per-batch 2: they are left out"
    assert text in setup.warnings and len(setup.split.train) == 13
    with pytest.raises(DataError, match="24 of 24"):
        prepare(complete(toy_config(data, max_atoms_per_batch=1, oversized_frames="drop")))


def seen_by(trainer: Trainer, stop_at: int | None = None) -> list[list[float]]:
    """The energies of the frames of each step from now on; a signal after some step."""
    found: list[list[float]] = []
    one_step = trainer._one_step

    def watched(batch: Any) -> None:
        found.append(batch.energy.tolist())
        one_step(batch)
        if trainer.progress.step == stop_at:
            signal.raise_signal(signal.SIGTERM)

    trainer._one_step = watched  # type: ignore[method-assign]
    return found


def test_an_interrupted_training_goes_on_with_the_same_batches_to_the_same_bits(tmp_path: Path) -> None:
    data = toy_file(tmp_path / "mixed.xyz", mixed=True)
    config = toy_config(data, max_atoms_per_batch=10, num_epochs=3, lr=1e-2)
    through = start(config, tmp_path / "through")
    whole = seen_by(through)
    assert through.fit() == "completed"
    first = start(config, tmp_path / "cut")
    seen = seen_by(first, stop_at=10)
    assert first.fit() == "interrupted"
    second = go_on(tmp_path / "cut")
    assert second.progress.batch  # within an epoch
    seen_then = seen_by(second)
    assert second.fit() == "completed"
    assert len(seen) == 10 and seen + seen_then == whole
    assert same(weights(tmp_path / "through"), weights(tmp_path / "cut"))
    assert max(map(len, whole)) == 5
    sizes = through.train_source.sizes
    assert through.progress.atoms == 3 * sizes.sum() - sizes[through.batching.epoch(0)[0]].sum()  # all but the first
    info = Run.open(tmp_path / "cut").info
    assert info["atoms_per_second"] > 0 and 0 <= info["waiting_share"] < 1


def test_a_checkpoint_from_before_batches_by_atoms_goes_on(tmp_path: Path) -> None:
    from equimd.files import save_tensors

    trainer = start(toy_config(toy_file(tmp_path / "water.xyz"), num_epochs=2), tmp_path / "run")
    seen_by(trainer, stop_at=4)
    assert trainer.fit() == "interrupted"
    path = Run.open(tmp_path / "run").checkpoint
    tensors, meta = load_tensors(path, "checkpoint")
    for key in ("place", "atoms", "stepping", "waiting"):
        del meta["progress"][key]
    save_tensors(path, tensors, meta, "checkpoint")
    again = go_on(tmp_path / "run")
    assert again.progress.place == again.progress.step == 4
    assert again.fit() == "completed"
