"""From settings to a training that can begin: frames found, split and checked, reference energies, a fresh model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equimd.chemistry import refuse_unseen, symbols
from equimd.config import DERIVED_KEYS, ModelConfig, RunConfig, flat_config
from equimd.data.content import Hashes, as_json
from equimd.data.dataset import Dataset, Subset, hashes_of, iterate_blocks
from equimd.data.dataset import notes as data_notes
from equimd.data.given import BUNDLED, absolute, open_given
from equimd.data.split import Split
from equimd.data.state import States, joined, refuse_unknown
from equimd.errors import ConfigError, DataError, ModelError
from equimd.files import sha256_of
from equimd.notices import note, warn
from equimd.run import Run
from equimd.training.batching import within_limit
from equimd.training.references import shift_references
from equimd.training.survey import Survey, check_labels, check_pairs, large_forces
from equimd.training.warm import METHOD, frozen_split, leaks, source_of, start_of

if TYPE_CHECKING:
    from equimd.model.painn.potential import Potential

DEFAULT_SPLITS = (0.8, 0.1, 0.1)
# settings that may change between the sessions of one training: its budget, and how the work is done
RESUMABLE = (
    "num_epochs", "max_time", "max_wall_time", "stop_before", "early_stopping_min_epochs", "early_stopping_patience",
    "batch_size_inference", "num_workers", "checkpoint_interval", "device", "threads", "compile", "display_unit",
    "tensorboard",
)  # fmt: skip
SPLIT_FILE = "split.json"


@dataclass
class Setup:
    """A training ready to begin. ``test`` may be None; ``notes`` and ``warnings`` are for the person watching."""

    config: RunConfig
    train: Dataset
    val: Dataset
    test: Dataset | None
    model: Potential
    split: Split
    hashes: dict[str, Hashes]
    notes: list[str]
    warnings: list[str]
    periodic: bool = False
    mean_weight: float | None = None
    val_force_rms: float = 0.0  # eV/A

    @cached_property
    def identity(self) -> str:
        """Names the training: its settings, but those that may change on the way, and its frames."""
        settings = {k: v for k, v in flat_config(self.config).items() if k not in (*RESUMABLE, *DATA_KEYS)}
        settings = {k: v for k, v in settings.items() if k not in LATER_KEYS or v != LATER_KEYS[k]}
        model = self.model.config.model_dump(mode="json", exclude={"states"})  # those of the frames, which are hashed
        if self.model.config.tensor_channels == self.model.config.num_features:  # as before there was a choice
            settings.pop("num_tensors"), model.pop("num_tensors")
        return sha256_of([json.dumps([settings, model], sort_keys=True)[:-1], ", ", *as_json(self.hashes), "]"])

    def say(self) -> None:
        """Tell the person watching."""
        for text in self.notes:
            note(text)
        for text in self.warnings:
            warn(text)

    def keep(self, run: Run) -> None:
        """Write the split and the hashes of its frames into a run, which can then be gone on with."""
        self.split.save(run.path / SPLIT_FILE)
        for part, hashes in self.hashes.items():
            run.save_hashes(part, hashes)

    def description(self) -> dict[str, Any]:
        """What the frames are, for run.json: files, counts, units, and one hash over all frames of each part."""
        c = self.config.dataset
        return {
            "files": {"train": list(c.data), "val": list(c.val_data), "test": list(c.test_data)},
            "frames": {"train": len(self.train), "val": len(self.val), "test": len(self.test) if self.test else 0},
            "units": _units(self.train),
            "sha256": {k: sha256_of(v.text()) for k, v in self.hashes.items()},
        }


# where the frames came from does not matter, their content hashes are compared instead
DATA_KEYS = (
    "data", "val_data", "test_data", "split_files", "reference_energies", "init", "check_pairs", "pretrain",
    "pretrain_time",
)  # fmt: skip
# settings that came later, and the value that means what runs from before they existed did: those can still go on
LATER_KEYS: dict[str, object] = {
    "force_unit": None, "energy_key": None, "forces_key": None, "mask_fixed": False, "missing_labels": "refuse",
    "charge": None, "spin": None, "max_atoms_per_batch": None, "oversized_frames": "refuse",
}  # fmt: skip


def complete(config: RunConfig) -> RunConfig:
    """Settings with the parts of a bundled set filled in and file names made absolute, so that the run can be resumed
    from any folder.

    Raises:
        ConfigError: no training data are named.
    """
    c = config.dataset
    if not c.data:
        raise ConfigError("no training data", hint="--data FILE, or --data bundled:ethanol")
    found: dict[str, Any] = {}
    whole = c.data[0].removeprefix(BUNDLED)
    if len(c.data) == 1 and c.data[0].startswith(BUNDLED) and "-" not in whole and c.splits is None:
        found["data"] = (f"{BUNDLED}{whole}-train",)
        for key in ("val", "test"):
            if not getattr(c, f"{key}_data"):
                found[f"{key}_data"] = (f"{BUNDLED}{whole}-{key}",)
    for key in ("data", "val_data", "test_data", "split_files"):
        names = found.get(key, getattr(c, key))
        found[key] = absolute(names)
    training = config.training
    if training.init:
        training = training.model_copy(update={"init": str(Path(training.init).absolute())})
    if training.pretrain and source_of(training.pretrain) != METHOD:
        training = training.model_copy(update={"pretrain": absolute((training.pretrain,))[0]})
    if c.reference_energies:
        found["reference_energies"] = str(Path(c.reference_energies).absolute())
    return config.model_copy(update={"dataset": c.model_copy(update=found), "training": training})


def prepare(config: RunConfig, *, run: Run | None = None, frames: Mapping[str, Dataset] | None = None) -> Setup:
    """Open, split and check the frames, and build the model.

    Args:
        config: settings, passed through :func:`complete`.
        run: the run to go on with: its split is used again.
        frames: ``data``, ``val_data`` or ``test_data`` that are open already.

    Raises:
        EquimdError: whatever is wrong with the data or the settings, before anything is written.
    """
    check_weights(config)
    start = start_of(config, run)
    data = _frames("data", config, frames)
    notes = [f"data: {len(data):,} frames, {_units(data)}", *data_notes(data)]
    if run is None:
        split = _new_split(config, data, start, notes)
        split = within_limit(split, data.n_atoms, config.training, data.info.path)
    else:
        split = Split.load(run.path / SPLIT_FILE)
    warnings = list(split.warnings)
    parts: dict[str, Dataset | None] = {}
    for name in ("train", "val", "test"):
        files = getattr(config.dataset, f"{name}_data", ())
        rows = getattr(split, name)
        if len(rows) and int(rows.max()) >= len(data):
            raise DataError(f"{name} row {int(rows.max())} of {len(data)} frames", where=config.dataset.data[0])
        own = _frames(f"{name}_data", config, frames) if files else None
        parts[name] = own if own is not None else Subset(data, rows) if len(rows) else None
    train, val, test = parts["train"], parts["val"], parts["test"]
    if train is None or val is None or not len(train) or not len(val):
        empty = "training" if train is None or not len(train) else "validation"
        raise DataError(f"the {empty} split is empty", hint="--splits TRAIN VAL TEST, or --val-data FILE")
    surveys = {"training": Survey.of(train), "validation": Survey.of(val)}
    for name, survey in surveys.items():
        check_labels(survey, name, config)
    if run is None:
        warnings += check_pairs(config, data)
    warnings += large_forces(surveys["training"])
    model_config = _model_config(config, surveys["training"], surveys["validation"], notes)
    model = _build(config, model_config, train, surveys["training"], notes, start)
    hashes = {"train": surveys["training"].hashes, "val": surveys["validation"].hashes}
    if shared := len(np.unique(hashes["val"].values[hashes["val"].within(hashes["train"])])):
        warnings.append(f"{shared} validation frames are also training frames: validation errors will flatter")
    if test is not None:  # found after the training, it would be too late
        for block in iterate_blocks(test):
            elements = {int(z) for z in np.unique(block.numbers) if z}
            _check_known("test", elements, block.states, model_config, test.info.path)
    if start and run is None:
        warnings += _leaks(start, hashes["val"], test)
    notes.append(
        f"frames: {len(train):,} train, {len(val):,} validation, {len(test) if test is not None else 0:,} test"
    )
    partial = any(s.weighted or s.no_forces or s.no_energy for s in surveys.values())
    return Setup(
        config, train, val, test, model, split, hashes, notes, warnings, surveys["training"].periodic,
        surveys["training"].mean_weight if partial else None, surveys["validation"].force_rms,
    )  # fmt: skip


def _frames(key: str, config: RunConfig, opened: Mapping[str, Dataset] | None) -> Dataset:
    """The frames of one setting, such as ``data``."""
    if opened is not None and key in opened:
        return opened[key]
    return open_given(getattr(config.dataset, key), config.dataset.reading)


def _units(data: Dataset) -> str:
    units = data.info.units
    return f"{units.energy}, {units.length} ({units.source})"


def check_weights(config: RunConfig) -> None:
    """Refuse combinations of loss weights and heads that would leave a head untrained."""
    t = config.training
    if config.model.forces == "direct" and t.forces_weight == 0:
        raise ConfigError(
            "a direct force head needs a forces weight", hint="--forces conservative, or --forces-weight 0.99"
        )
    if config.model.forces == "direct" and t.energy_weight == 0:
        raise ConfigError(
            "a direct model trained on forces alone would never learn its energy",
            hint="--energy-weight 0.01, or conservative",
        )


def started_from(setup: Setup, start: Path) -> Setup:
    """The same training, from the model of a run; notes and warnings are about that alone."""
    notes = list[str]()
    model = _start_from(setup.config, setup.model.config, setup.train, notes, str(start))
    return replace(setup, model=model, notes=notes, warnings=_leaks(str(start), setup.hashes["val"], setup.test))


def _leaks(start: str, val_hashes: Hashes, test: Dataset | None) -> list[str]:
    """Sentences on frames that measure errors and that the model of a run was trained on."""
    tested = {} if test is None else {"test": hashes_of(test)}
    return leaks(Run.open(start), {"validation": val_hashes, **tested})


def _new_split(config: RunConfig, data: Dataset, start: str | None, notes: list[str]) -> Split:
    """The split of the run that it starts from, where none is stated and its frames are among these; else a new one."""
    c = config.dataset
    stated = c.splits is not None or c.split_method != "random" or c.split_files or c.subset_size or c.val_data
    if start and not stated:
        found = frozen_split(Run.open(start), data, config.training.seed)
        if found is not None:
            notes.append(found[1])
            return found[0]
    return _split(config, data)


def _split(config: RunConfig, data: Dataset) -> Split:
    """Rows of train, validation and test within ``data``; parts that have files of their own take none."""
    from equimd.data.split import make_split

    c = config.dataset
    wanted = c.splits
    if wanted is None and c.split_method != "files" and not c.split_files:
        own = (bool(c.val_data), bool(c.test_data))
        wanted = {(False, False): DEFAULT_SPLITS, (False, True): (0.9, 0.1, 0.0)}.get(own, (1.0, 0.0, 0.0))
    for name, size in zip(("val", "test"), (wanted or (0, 0, 0))[1:], strict=True):
        if size and getattr(c, f"{name}_data"):
            raise ConfigError(
                f"--{name}-data is given, and --splits asks for {size:g} {name} frames of --data",
                hint="set that count to 0",
            )
    counts = wanted is not None and all(float(s).is_integer() for s in wanted) and sum(wanted) > 1
    return make_split(
        data,
        sizes=[int(s) for s in wanted] if wanted and counts else None,
        fractions=wanted if wanted and not counts else None,
        method=c.split_method,
        seed=config.training.seed,
        subset_size=c.subset_size,
        index_files=list(c.split_files) or None,
    )


def _model_config(config: RunConfig, train: Survey, val: Survey, notes: list[str]) -> ModelConfig:
    """The model's settings, with what the data decide."""
    states = joined(train.states | val.states, None)
    several = len(states) > 1
    if several and not config.model.charge_spin:
        notes.append(f"charge and spin vary ({len(states)} states): they are embedded in the model")
    found = {
        "elements": tuple(sorted(train.elements)),
        "states": joined(train.states, None) if several else states,
        "charge_spin": several or config.model.charge_spin,
        "energy_only": config.training.forces_weight == 0,
    }
    if found["energy_only"]:
        notes.append("energies only: the model is marked energy_only, and forces and MD are refused")
    made = config.model.model_copy(update=found)
    _check_known("validation", val.elements, val.states, made)
    return made


def _check_known(
    part: str, elements: Iterable[int], states: States, known: ModelConfig, where: str | None = None
) -> None:
    said: Any = {"hint": "training frames have", "where": where, "error": DataError}
    refuse_unseen(elements, known.elements, what=f"{part} frames have elements that no training frame has", **said)
    what = f"{part} frames have states that no training frame has"
    refuse_unknown(states, known.states, seen=known.charge_spin, what=what, **said)


def _build(
    config: RunConfig, model_config: ModelConfig, train: Dataset, survey: Survey, notes: list[str], start: str | None
) -> Potential:
    """A model with seeded weights and fitted references, or one that starts from another run."""
    if start:
        return _start_from(config, model_config, train, notes, start)
    from equimd.model.build import build_model

    model = build_model(model_config, config.training.seed)
    energies = reference_energies(config, survey)
    model.atomic_energies.copy_(torch.from_numpy(energies))
    model.scale.fill_(_scale(config, train, survey, energies))
    return model


def reference_energies(config: RunConfig, survey: Survey) -> np.ndarray:
    """(119,) float64 energies of the elements, eV: from a file, or fitted to the training frames."""
    if config.dataset.reference_energies:
        energies = _isolated_atoms(config)
        missing = {z for z in survey.elements if not np.isfinite(energies[z]) or energies[z] == 0.0}
        if missing:
            raise DataError(f"no energy for {symbols(missing)}", where=config.dataset.reference_energies)
        return np.nan_to_num(np.asarray(energies, np.float64))
    if survey.no_energy == survey.n_frames:
        return np.zeros(119)
    return np.nan_to_num(survey.energies.fit(survey.where))


def _isolated_atoms(config: RunConfig) -> np.ndarray:
    """The energies of the file of isolated atoms, under the name that the frames' energies have, if it has that."""
    from equimd.data.reference import isolated_atom_energies

    path, key = str(config.dataset.reference_energies), config.dataset.energy_key
    if key is not None:
        with suppress(ConfigError):
            return isolated_atom_energies(path, energy_key=key)
    return isolated_atom_energies(path)


def _scale(config: RunConfig, train: Dataset, survey: Survey, energies: np.ndarray) -> float:
    """Size of what is learned, eV: rms of the forces; without forces, the spread of energies per root atom."""
    if config.training.forces_weight:
        return max(1e-3, survey.force_rms)
    total, count = 0.0, 0
    for block in iterate_blocks(train):
        rest = (block.energy - energies[block.numbers].sum(1))[block.has_energy]
        total += float(np.sum(rest**2 / block.n_atoms[block.has_energy]))
        count += len(rest)
    return max(1e-3, float(np.sqrt(total / max(1, count))))


def _start_from(
    config: RunConfig, model_config: ModelConfig, train: Dataset, notes: list[str], start: str
) -> Potential:
    """The model of another run, its reference energies shifted to the new frames."""
    from equimd.model.build import build_model

    old, _ = Run.open(start).load_model()
    default = ModelConfig()
    keep = old.config.model_dump()
    for key, value in config.model.model_dump().items():
        if key in ("charge_spin", *DERIVED_KEYS):
            continue
        if value != getattr(default, key) and value != keep[key]:
            raise ConfigError(
                f"{key} = {value}, but the model to start from has {keep[key]}",
                where=start,
                hint="leave the option out, or train without that start",
            )
    if model_config.charge_spin and not old.config.charge_spin:
        raise ModelError("charge and spin vary, and the model to start from does not know them", where=start)
    keep["elements"] = tuple(sorted({*old.config.elements, *model_config.elements}))
    keep["energy_only"] = model_config.energy_only
    if not old.config.charge_spin:
        keep["states"] = model_config.states
    elif old.config.states:
        keep["states"] = joined({*old.config.states, *model_config.states}, start)
    model = build_model(ModelConfig(**keep))
    model.load_state_dict(old.state_dict())
    if config.dataset.reference_energies:
        known = Survey(elements=set(keep["elements"]))
        model.atomic_energies.copy_(torch.from_numpy(reference_energies(config, known)))
    else:
        t = config.training
        shift_references(model, train, t.batch_size_inference, t.max_atoms_per_batch)
    notes.append(f"starts from the model of {start}")
    return model


def set_threads(config: RunConfig, train: Dataset) -> Callable[[], None]:
    """Set torch's CPU threads for this training; call what is returned to set them back.

    One thread is fastest for batches of small molecules, whose single operations are too short to share.
    """
    before, t = torch.get_num_threads(), config.training
    wanted = t.threads
    if wanted is None:
        atoms = t.max_atoms_per_batch or float(np.mean(train.n_atoms)) * t.batch_size_train
        wanted = 1 if atoms <= 500 else before
    torch.set_num_threads(wanted)
    return lambda: torch.set_num_threads(before)
