"""Trainings of a second: they learn, stop when they should, go on where they stopped, and refuse what cannot work."""

from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import equimd
from equimd.config import RunConfig
from equimd.data.dataset import ArrayDataset
from equimd.errors import ConfigError, DataError, EquimdError, RunError
from equimd.files import load_tensors
from equimd.machine import choose_device
from equimd.run import Run
from equimd.training.compiling import pays_to_compile
from equimd.training.loop import Trainer
from equimd.training.metrics import Unit
from equimd.training.progress import EpochProgress
from equimd.training.schedule import validation_interval
from equimd.training.setup import SPLIT_FILE, complete, prepare
from equimd.training.step import TrainStep
from tests.training.toy import toy_config, toy_file, toy_frames


@pytest.fixture(scope="module")
def water(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_file(tmp_path_factory.mktemp("data") / "water.xyz")


def start(config: RunConfig, out: Path) -> Trainer:
    """A new training, as the command makes it."""
    setup = prepare(complete(config))
    run = Run.create(out, setup.config, {"data": setup.description()})
    setup.keep(run)
    return Trainer(setup, run)


def go_on(out: Path) -> Trainer:
    run = Run.open(out)
    return Trainer(prepare(run.config, run=run), run, resume=True)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def weights(run: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_tensors(run / f"{name}.safetensors", "model")[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_the_springs(tmp_path: Path, water: Path) -> None:
    options = {"num_epochs": 40, "lr": 1e-2, "ema_decay": 0.9, "num_features": 16, "batch_size_train": 4}
    assert start(toy_config(water, **options), tmp_path / "run").fit() == "completed"
    table = rows(tmp_path / "run")
    assert len(table) == 40
    first, last = (float(table[k]["val_forces_mae_meV_per_A"]) for k in (0, -1))
    assert last < first / 3
    # what is kept is the best by validation, and it predicts as well as it was measured
    model = equimd.load(tmp_path / "run")
    split = json.loads((tmp_path / "run" / SPLIT_FILE).read_text())
    val = toy_frames().take(split["val"])
    _, forces = model.predict_frames(val)
    best = int(min(table, key=lambda r: float(r["val_loss"]))["epoch"])
    assert Run.open(tmp_path / "run").info["best_epoch"] == best
    measured = float(table[best - 1]["val_forces_mae_meV_per_A"])
    assert 1e3 * np.abs(forces - val.forces).mean() == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"forces": "direct"}, {"dtype": "float64"}, {"lr_schedule": "plateau"}])
def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, water: Path, options: dict[str, Any]) -> None:
    config = toy_config(water, num_epochs=4, **options)
    start(config, tmp_path / "whole").fit()
    trainer = start(config, tmp_path / "parts")
    step = trainer.step.__call__
    count = 0

    def interrupting(batch: Any, lr: float) -> Any:
        nonlocal count
        count += 1
        if count == 5:  # in the middle of the second epoch
            signal.raise_signal(signal.SIGINT)
        return step(batch, lr)

    trainer.step = Interrupting(trainer.step, interrupting)  # type: ignore[assignment]
    assert trainer.fit() == "interrupted"
    assert Run.open(tmp_path / "parts").info["status"] == "interrupted"
    assert trainer.progress.batch == 2
    assert go_on(tmp_path / "parts").fit() == "completed"
    for name in ("model", "last"):
        assert same(weights(tmp_path / "whole", name), weights(tmp_path / "parts", name))
    timeless = [[{k: v for k, v in r.items() if k != "time_s"} for r in rows(tmp_path / d)] for d in ("whole", "parts")]
    assert timeless[0] == timeless[1]


class Interrupting:
    """A step that does something first, with everything else of the real one."""

    def __init__(self, step: Any, call: Any) -> None:
        self._step, self._call = step, call

    def __call__(self, batch: Any, lr: float) -> Any:
        return self._call(batch, lr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


def test_the_seed_decides_everything(tmp_path: Path, water: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        start(toy_config(water, seed=seed, num_epochs=1), tmp_path / name).fit()
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_training_leaves_global_random_state_and_threads_alone(tmp_path: Path, water: Path) -> None:
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    start(toy_config(water, num_epochs=1), tmp_path / "run").fit()
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32


def test_early_stopping_waits_for_its_minimum_and_its_patience(tmp_path: Path, water: Path) -> None:
    options = {"num_epochs": 40, "early_stopping_min_epochs": 5, "early_stopping_patience": 2}
    # a rate of 1e-12 never improves by a bit that matters: the best is among the first epochs
    trainer = start(toy_config(water, lr=1e-12, lr_schedule="constant", **options), tmp_path / "run")
    assert trainer.fit() == "stopped early"
    assert trainer.progress.epoch >= 5
    assert trainer.progress.epoch == max(5, trainer.progress.best_epoch + 2)


def test_a_time_budget_ends_it(tmp_path: Path, water: Path) -> None:
    trainer = start(toy_config(water, num_epochs=None, max_time="1s"), tmp_path / "run")
    assert trainer.fit() == "completed"
    info = Run.open(tmp_path / "run").info
    assert 1.0 <= info["training_seconds"] < 10.0
    assert trainer.progress.last_validated == trainer.progress.step  # the last weights are measured too


def test_compiling_comes_on_top_of_the_time(tmp_path: Path, water: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = TrainStep._runner

    def compiling(step: TrainStep, *arguments: Any) -> Any:
        if not step._graphs:
            time.sleep(1.5)
            step._graphs[("a shape",)] = print
        return runner(step, *arguments)

    monkeypatch.setattr(TrainStep, "_runner", compiling)
    told: list[str] = []
    config = toy_config(water, num_epochs=None, max_time="3s")  # a busy machine takes a second for a step
    trainer = start(config, tmp_path / "run")
    trainer.told = EpochProgress(lambda event: told.append(str(event)), Unit.of("meV"))
    assert trainer.fit() == "completed"
    info = Run.open(tmp_path / "run").info
    assert info["steps"] > 1 and info["compiling_seconds"] >= 1.5
    assert 3.0 <= info["training_seconds"] < 30.0
    assert any(line.startswith("compiled the training step | ") and "not counted" in line for line in told)
    resumed = Trainer(prepare(config, run=Run.open(tmp_path / "run")), Run.open(tmp_path / "run"), resume=True)
    assert resumed.summary()["compiling_seconds"] == info["compiling_seconds"]


def test_forces_alone_and_the_constant_afterwards(tmp_path: Path, water: Path) -> None:
    options = {"energy_weight": 0, "num_epochs": 40, "lr": 1e-2, "ema_decay": 0.9, "batch_size_train": 4}
    start(toy_config(water, **options), tmp_path / "run").fit()
    table = rows(tmp_path / "run")
    assert table[-1]["val_energy_mae_meV"] == table[-1]["train_energy_mae_meV"] == ""
    split = json.loads((tmp_path / "run" / SPLIT_FILE).read_text())
    train = toy_frames().take(split["train"])
    energy, _ = equimd.load(tmp_path / "run").predict_frames(train)
    assert abs((energy - train.energy).mean()) < 1e-5  # float32 sums of the network
    assert np.abs(energy - train.energy).mean() < 0.5 * train.energy.std()


def test_frames_without_energies_train_on_forces(tmp_path: Path) -> None:
    data = toy_file(tmp_path / "forces.xyz", energy=False)
    with pytest.raises(DataError, match="24 of 24 training frames have no energy"):
        prepare(complete(toy_config(data)))
    assert start(toy_config(data, energy_weight=0, num_epochs=1), tmp_path / "run").fit() == "completed"


def test_energies_alone_are_allowed_with_the_weight_said_and_marked(tmp_path: Path) -> None:
    data = toy_file(tmp_path / "energies.xyz", forces=False)
    with pytest.raises(DataError, match="24 of 24 training frames have no forces") as refused:
        prepare(complete(toy_config(data)))
    assert "--forces-weight 0" in str(refused.value)
    start(toy_config(data, forces_weight=0), tmp_path / "run").fit()
    model = equimd.load(tmp_path / "run")
    assert model.config.energy_only
    assert not model.has_forces
    with pytest.raises(ConfigError, match="direct force head"):
        prepare(complete(toy_config(data, forces_weight=0, forces="direct")))
    with pytest.raises(ConfigError, match="never learn its energy"):
        prepare(complete(toy_config(data, energy_weight=0, forces="direct")))


def test_mixed_compositions_train_with_fitted_references(tmp_path: Path) -> None:
    data = toy_file(tmp_path / "mixed.xyz", n=60, mixed=True)
    config = toy_config(data, splits=(40, 10, 10), num_epochs=4, lr=1e-2, ema_decay=0.9)
    trainer = start(config, tmp_path / "run")
    references = trainer.model.atomic_energies
    assert float(2 * references[1]) == pytest.approx(-31.7, abs=0.5)
    trainer.fit()
    assert float(rows(tmp_path / "run")[-1]["val_energy_mae_meV"]) < 800.0  # of energies 2000 eV apart


def test_starting_from_another_model(tmp_path: Path, water: Path) -> None:
    start(toy_config(water, num_epochs=30, lr=1e-2, ema_decay=0.9), tmp_path / "first").fit()
    shifted = toy_frames(seed=5)
    from ase.io import write

    atoms = shifted.to_ase()
    for a in atoms:
        a.calc.results["energy"] += 0.7  # another method, say
    write(tmp_path / "other.xyz", atoms, format="extxyz")
    config = toy_config(tmp_path / "other.xyz", init=str(tmp_path / "first"), num_epochs=1, lr=1e-4)
    start(config, tmp_path / "second").fit()
    before, after = rows(tmp_path / "first"), rows(tmp_path / "second")
    assert float(after[0]["train_energy_mae_meV"]) < 300.0  # the constant is moved, not learned
    assert float(after[0]["train_forces_mae_meV_per_A"]) < 1.5 * float(before[-1]["train_forces_mae_meV_per_A"])
    with pytest.raises(ConfigError, match="num_features = 12, but the model to start from has 8"):
        prepare(complete(toy_config(water, init=str(tmp_path / "first"), num_features=12)))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, water: Path) -> None:
    for name, lr in (("a", 1e-3), ("b", 2e-3)):
        start(toy_config(water, lr=lr, num_epochs=1), tmp_path / name).fit()
    checkpoint = Run.open(tmp_path / "a").checkpoint
    checkpoint.write_bytes(Run.open(tmp_path / "b").checkpoint.read_bytes())
    with pytest.raises(RunError, match="other settings or other data"):
        go_on(tmp_path / "a")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(RunError, match="truncated or damaged"):
        go_on(tmp_path / "a")
    checkpoint.unlink()
    with pytest.raises(RunError, match="no such file"):
        go_on(tmp_path / "a")


def test_a_resumed_training_notices_changed_data(tmp_path: Path) -> None:
    data = toy_file(tmp_path / "water.xyz")
    start(toy_config(data, num_epochs=1), tmp_path / "run").fit()
    toy_file(data, seed=9)
    with pytest.raises(RunError, match="other settings or other data"):
        go_on(tmp_path / "run")


def test_splits_are_kept_and_parts_from_other_files(tmp_path: Path, water: Path) -> None:
    other = toy_file(tmp_path / "other.xyz", n=12, seed=3)
    setup = prepare(complete(toy_config(water, splits=(30, 5, 0), test_data=str(other))))
    assert [len(x) for x in (setup.train, setup.val, setup.test or [])] == [30, 5, 12]
    setup = prepare(complete(toy_config(water, splits=None, val_data=str(other))))
    assert [len(setup.train), len(setup.val), setup.test] == [40, 12, None]
    setup = prepare(complete(toy_config(water, splits=None, subset_size=20)))
    assert [len(x) for x in (setup.train, setup.val, setup.test or [])] == [16, 2, 2]
    with pytest.raises(ConfigError, match="--val-data is given, and --splits asks for 8"):
        prepare(complete(toy_config(water, val_data=str(other))))
    setup = prepare(complete(toy_config(water, splits=(40, 0, 0), val_data=str(water))))
    assert any("40 validation frames are also training frames" in w for w in setup.warnings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": (40, 8, 8)}, "56"),
        ({"splits": (40, 0, 0)}, "validation split is empty"),
        ({"splits": (0, 20, 20)}, "training part of the split is empty"),
        ({"data": "absent.xyz"}, "absent.xyz"),
        ({"data": ()}, "no training data"),
    ],
)
def test_splits_and_files_that_cannot_be_are_refused(water: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EquimdError, match=message):
        prepare(complete(toy_config(**{"data": water, **options})))


def test_unseen_elements_in_validation_or_test_are_refused(tmp_path: Path, water: Path) -> None:
    from tests.data.molecules import ethanol, save_md17

    other = save_md17(tmp_path / "ethanol.npz", ethanol(10))
    for part in ("val_data", "test_data"):
        splits = (32, 0, 8) if part == "val_data" else (32, 8, 0)
        with pytest.raises(DataError, match="elements that no training frame has: C"):
            prepare(complete(toy_config(water, splits=splits, energy_unit=None, **{part: str(other)})))


def charged(path: Path, states: list[tuple[int, int]]) -> Path:
    from ase.io import write

    atoms = toy_frames(len(states)).to_ase()
    for a, (charge, spin) in zip(atoms, states, strict=True):
        a.info.update({"charge": charge, **({"spin": spin} if spin else {})})
    write(path, atoms, format="extxyz")
    return path


def test_mixed_charges_are_embedded_and_unstated_ones_refused(tmp_path: Path) -> None:
    data = charged(tmp_path / "stated.xyz", [(k % 2, 1 + k % 2) for k in range(40)])
    setup = prepare(complete(toy_config(data)))
    assert setup.model.config.charge_spin
    assert any("charge and spin vary" in n for n in setup.notes)
    data = charged(tmp_path / "unstated.xyz", [(k % 2, 2 * (k % 2)) for k in range(40)])
    with pytest.raises(DataError, match="some state none"):
        prepare(complete(toy_config(data)))


def test_a_diverged_training_says_so(tmp_path: Path, water: Path) -> None:
    trainer = start(toy_config(water, lr=1e18, warmup_steps=0, num_epochs=3), tmp_path / "run")
    with pytest.raises(EquimdError, match="diverged"):
        trainer.fit()


def test_validation_costs_little_and_follows_early_stopping() -> None:
    def interval(n_train: int, n_val: int, **options: Any) -> int:
        from equimd.config import parse_config

        return validation_interval(parse_config(options).training, n_train, n_val)

    assert interval(950, 50) == 1
    assert interval(1000, 200) == 4
    assert interval(1000, 200, num_epochs=10) == 1
    assert interval(1000, 200, early_stopping_patience=3) == 1
    assert interval(950, 50, val_interval=7) == 7


def test_compilation_is_decided_by_settings_alone() -> None:
    from equimd.config import parse_config

    ethanol, large = np.full(950, 9), np.full(950, 60)
    assert pays_to_compile(parse_config({"max_time": "45m"}), ethanol)
    assert not pays_to_compile(parse_config({"max_time": "3m"}), ethanol)
    assert not pays_to_compile(parse_config({"num_epochs": 10}), ethanol)
    assert pays_to_compile(parse_config({"num_epochs": 500}), ethanol)
    assert not pays_to_compile(parse_config({"max_time": "45m"}), large)
    assert not pays_to_compile(parse_config({"max_time": "45m"}), ethanol, periodic=True)
    assert pays_to_compile(parse_config({"compile": "on"}), ethanol)


def test_devices_that_are_not_here_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown device"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(ConfigError, match="no device 'cuda'"):
            choose_device("cuda")


def test_frames_kept_for_calibration_are_named_by_their_hashes(tmp_path: Path, water: Path) -> None:
    start(toy_config(water, num_epochs=0), tmp_path / "run").fit()
    run = Run.open(tmp_path / "run")
    split = json.loads((tmp_path / "run" / SPLIT_FILE).read_text())
    frames = ArrayDataset(toy_frames())
    for part in ("train", "val"):
        # extended XYZ keeps 8 digits, the hash 5
        assert run.hashes(part) == frames.frames(np.array(split[part])).content_hashes()
