"""Labels that are missing, masks and weights: what the loss counts, and what a training refuses or says."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimd.data import ArrayDataset
from equimd.data.batch import Batch
from equimd.data.convert import write_frames
from equimd.data.frames import Frames
from equimd.errors import DataError
from equimd.run import Run
from equimd.training.compiling import pad_batch
from equimd.training.loop import Trainer
from equimd.training.metrics import validate
from equimd.training.setup import Setup, complete, prepare
from equimd.training.step import TrainStep
from tests.training.test_step import CUTOFF, potential
from tests.training.toy import toy_config, toy_frames


def _partial(n: int = 8) -> Frames:
    """Frames of which some lack an energy, all forces or those on an atom, and which count differently."""
    frames = toy_frames(n, mixed=True)
    energy, forces = frames.energy.copy(), frames.forces.copy()
    energy[1], forces[0], forces[3, 1] = np.nan, np.nan, np.nan
    return replace(frames, energy=energy, forces=forces, weight=1.0 + np.arange(n) % 3)


@pytest.mark.parametrize(("neighbors", "padded"), [("auto", False), ("auto", True), ("torch", False)])
def test_missing_labels_count_nothing_and_weights_scale(neighbors: str, padded: bool) -> None:
    frames, model = _partial(), potential(dtype="float64")
    batch = Batch.from_frames(frames, CUTOFF, dtype=torch.float64, neighbors=neighbors, mean_weight=2.0)
    twin = copy.deepcopy(model)
    out = twin(batch)
    weight = torch.tensor(frames.weight / 2.0)
    known = torch.tensor(frames.has_energy)
    wanted = 0.3 * ((out["energy"] - torch.tensor(frames.energy)).abs() * weight)[known].sum() / len(frames)
    real = batch.atomic_numbers > 0
    labels = torch.tensor(frames.forces[frames.numbers > 0])
    labelled = torch.isfinite(labels).all(1)
    per_atom = weight[batch.batch[real]]
    lengths = ((out["forces"][real] - labels.nan_to_num()).square().sum(1) + 1e-10).sqrt() - 1e-5
    wanted = wanted + 0.7 * (lengths * per_atom)[labelled].sum() / int(real.sum())
    expected = torch.autograd.grad(wanted, list(twin.parameters()), allow_unused=True)
    step = TrainStep(model, energy_weight=0.3, forces_weight=0.7)
    batch = pad_batch(batch, 10, 4) if padded else batch
    weights = step.flat.vector.new_tensor([0.3, 0.7])
    gradient, statistics = step.gradients(
        step.flat.vector, weights[0], weights[1], step._inputs(batch), (batch.num_structures, batch.num_slots)
    )
    torch.testing.assert_close(statistics[0], wanted.detach(), rtol=1e-10, atol=0)
    for found, value in zip(step.flat.views(gradient), expected, strict=True):
        torch.testing.assert_close(found, torch.zeros_like(found) if value is None else value, rtol=1e-8, atol=1e-12)
    assert statistics[5] == len(frames) - 1 and statistics[6] == 3 * int(labelled.sum())


def test_errors_of_validation_leave_missing_labels_out() -> None:
    frames, model = _partial(), potential(dtype="float64")
    config = toy_config("x", energy_weight=0.3, forces_weight=0.7).training
    batch = Batch.from_frames(frames, CUTOFF, dtype=torch.float64, mean_weight=2.0)
    found = validate(model, [batch], config)
    out = model(Batch.from_frames(frames, CUTOFF, dtype=torch.float64, neighbors="torch"))
    off = (out["energy"].detach().numpy() - frames.energy)[frames.has_energy]
    assert found["energy_mae"] == pytest.approx(np.abs(off).mean(), rel=1e-10)
    off = (out["forces"].detach().numpy() - frames.forces[frames.numbers > 0])[frames.force_mask[frames.numbers > 0]]
    assert found["forces_mae"] == pytest.approx(np.abs(off).mean(), rel=1e-10)


def _setup(tmp_path: Path, frames: Frames, **options: Any) -> Setup:
    write_frames(tmp_path / "a.h5", ArrayDataset(frames))
    return prepare(complete(toy_config(tmp_path / "a.h5", energy_unit=None, **options)))


def test_a_training_refuses_missing_labels_unless_they_are_masked(tmp_path: Path) -> None:
    frames = _partial(40)
    with pytest.raises(DataError, match=r"have no forces, or not on every atom[\s\S]*--missing-labels mask"):
        _setup(tmp_path, frames)
    setup = _setup(tmp_path, frames, missing_labels="mask")
    assert setup.mean_weight is not None
    run = Run.create(tmp_path / "run", setup.config, {})
    trainer = Trainer(setup, run)
    trainer.fit()
    assert trainer.progress.epoch == 2 and trainer.best is not None
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3 and "nan" not in rows[-1]
    nothing = replace(frames, forces=np.full_like(frames.forces, np.nan))
    with pytest.raises(DataError, match="have no forces"):
        _setup(tmp_path, nothing, missing_labels="mask")


def test_frames_that_state_no_charge_among_others_that_do_are_refused(tmp_path: Path) -> None:
    frames = toy_frames(40)
    charge = np.where(np.arange(40) % 4 == 0, 1, 0)
    stated = replace(frames, charge=charge, charge_stated=np.ones(40, bool))
    assert _setup(tmp_path, stated, check_pairs=False).model.config.charge_spin
    for some in (charge != 0, np.arange(40) % 2 == 0):
        with pytest.raises(DataError, match="some state none"):
            _setup(tmp_path, replace(stated, charge_stated=some | (charge != 0)), check_pairs=False)


def test_isolated_atoms_among_the_frames_are_named(tmp_path: Path) -> None:
    atoms = Frames.build(np.array([[1], [8]]), np.zeros((2, 1, 3)), np.array([-13.6, -2040.0]))
    with pytest.raises(DataError, match=r"isolated atoms without forces[\s\S]*--reference-energies"):
        _setup(tmp_path, Frames.concatenate([toy_frames(20), atoms, toy_frames(20)]), splits=(38, 4, 0))


def test_whole_labels_take_the_old_path(tmp_path: Path) -> None:
    assert _setup(tmp_path, toy_frames(40)).mean_weight is None


def test_a_training_refuses_energies_of_another_unit_or_frame(tmp_path: Path) -> None:
    frames = toy_frames(400)
    assert not [w for w in _setup(tmp_path, frames, splits=(300, 50, 50)).warnings if "forces" in w]
    for changed, words in (
        (replace(frames, forces=frames.forces / 1.8897), "forces per Bohr"),
        (replace(frames, forces=-frames.forces), "gradients"),
        (replace(frames, forces=frames.forces[::-1]), "do not follow from the forces"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            _setup(tmp_path, changed, splits=(300, 50, 50))
        assert "--no-check-pairs" in str(caught.value)
        assert _setup(tmp_path, changed, splits=(300, 50, 50), check_pairs=False)
    assert _setup(tmp_path, changed, splits=(300, 50, 50), energy_weight=0)


def test_huge_forces_are_spoken_of(tmp_path: Path) -> None:
    frames = toy_frames(40)
    forces = frames.forces.copy()
    forces[:, 0, 0] += 1e5
    warnings = _setup(tmp_path, replace(frames, forces=forces), check_pairs=False).warnings
    assert any("forces above 50 eV/A, up to 1e+05" in text for text in warnings)


def test_earlier_runs_can_go_on(tmp_path: Path) -> None:
    """Settings that did not exist then do not change the name of a training, at the value that means the same."""
    import hashlib
    import json

    from equimd.config import flat_config
    from equimd.training.setup import DATA_KEYS, LATER_KEYS, RESUMABLE

    setup = _setup(tmp_path, toy_frames(40))
    later = (*RESUMABLE, *DATA_KEYS, *LATER_KEYS, "num_tensors")
    settings = {k: v for k, v in flat_config(setup.config).items() if k not in later}
    model = setup.model.config.model_dump(mode="json", exclude={"states", "num_tensors"})
    hashes = {part: list(found) for part, found in setup.hashes.items()}
    text = json.dumps([settings, model, hashes], sort_keys=True)
    assert setup.identity == hashlib.sha256(text.encode()).hexdigest()
    other = _setup(tmp_path, toy_frames(40), mask_fixed=True)
    assert other.identity != setup.identity
