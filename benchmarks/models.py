"""The trained models that suites share, and the frames they are judged on.

Runs are those of the accuracy suite, in its folder and by its names: a finished one is used as it is, an interrupted
one resumed, a missing one trained by ``equimd train``. Frames used for early stopping belong to training, never to
calibration:

| case | training + validation | calibration | test | out of domain |
|---|---|---|---|---|
| a molecule of rMD17 | 950 + 50 of train_01 | half of test_01, drawn by the seed | the other half | - |
| acac (300 K) | 450 + 50 of train_300K | first half of test_MD_300K | second half | test_MD_600K |
| bundled (ethanol, GFN2-xTB, 300 K) | 1000 + 200 | 1000 | 1000 | 500 at 600 K, 500 at 1000 K |
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equimd.benchmarks.accuracy import accuracy_suite
from equimd.benchmarks.options import Options
from equimd.errors import MachineError

if TYPE_CHECKING:
    from equimd.data.dataset import Dataset
    from equimd.data.system import System
    from equimd.model.interface import Model

ACAC, BUNDLED = "acac", "bundled"


@dataclass(frozen=True)
class Case:
    """A molecule and its frames.

    Attributes:
        name: as on command lines: a molecule of rMD17, ``acac`` or ``bundled``.
        row: <dataset>/<molecule>/<split>, as row names begin; the split is the one in domain.
        n_train: frames trained on.
        temperature: at which they were sampled, K.
        outside: splits out of domain.
    """

    name: str
    row: str
    n_train: int
    temperature: float
    outside: tuple[str, ...] = ()

    @property
    def split(self) -> str:
        return self.row.rsplit("/", 1)[1]

    def row_of(self, split: str) -> str:
        """The beginning of row names of another split."""
        return f"{self.row.rsplit('/', 1)[0]}/{split}"


@dataclass(frozen=True)
class HeldOut:
    """Frames that a model was not trained on: ``tests`` by split, the first of them in domain."""

    calibration: Dataset
    tests: dict[str, Dataset]


def case(name: str) -> Case:
    """The case of a name; any but ``acac`` and ``bundled`` is a molecule of rMD17."""
    if name == ACAC:
        return Case(name, "acac/acetylacetone/300K", 450, 300.0, ("600K",))
    if name == BUNDLED:
        return Case(name, "bundled/ethanol/300K", 1000, 300.0, ("600K", "1000K"))
    return Case(name, f"rmd17/{name}/01", 950, 500.0)


def problem(case: Case, options: Options) -> accuracy_suite.LearningProblem:
    """The training of a case with data files.

    Raises:
        DataError: an unknown molecule, or files that are not there.
    """
    return (
        accuracy_suite.acetylacetone(options.data)
        if case.name == ACAC
        else accuracy_suite.rmd17(options.data, case.name)
    )


def files(case: Case, options: Options) -> list[Path]:
    """The data files of a case."""
    from equimd.data.bundled import paths

    if case.name == BUNDLED:
        return [*paths("ethanol"), *(p for split in case.outside for p in paths(f"ethanol-{split}"))]
    found = problem(case, options)
    return [found.train, *(path for _, path in found.tests)]


def trained(case: Case, options: Options, seed: int, variant: str = "conservative") -> Path:
    """The folder of a finished run: trained now, or gone on with, if it is not there.

    Raises:
        MachineError: the training failed.
    """
    if case.name != BUNDLED:
        return accuracy_suite.train(problem(case, options), variant, seed, options)
    budget = accuracy_suite.budget(options)
    run = options.work / "accuracy" / f"{case.row.replace('/', '-')}-{variant}-{budget}-seed{seed}"
    if (run / "test.json").exists():
        return run
    new = ["--data", "bundled:ethanol", *accuracy_suite.preset(options), "--forces", variant]
    new += ["--max-time", budget, "--threads", "1"]
    todo = ["--resume", str(run)] if run.exists() else [*new, "--seed", str(seed), "--out", str(run)]
    command = [sys.executable, "-m", "equimd.cli", "train", *todo]
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise MachineError(f"failed with exit code {code}", where=" ".join(command[2:]))
    return run


def load_model(run: Path) -> Model:
    """The potential of a run, best weights by validation."""
    from equimd.run import Run

    return Run.open(run).load_model()[0]


def predicted(model: Model, system: System, positions: np.ndarray) -> np.ndarray:
    """(k, n, 3) the model's forces on positions (k, n, 3) of one molecule, eV/Angstrom and Angstrom."""
    import torch

    from equimd.forces.forcefield import ForceField

    field = ForceField(model, system, compile="off")
    parts = torch.from_numpy(positions.copy()).split(256)
    return np.concatenate([field(x)[1].numpy() for x in parts])


def weights_sha256(run: Path) -> str:
    """Hash of the weights that :func:`load_model` gives: what is measured belongs to them."""
    from equimd.files import load_tensors
    from equimd.run import MODEL_FILE

    return load_tensors(run / MODEL_FILE, "model")[1]["sha256"]


def held_out(case: Case, options: Options, seed: int, limit: int | None = None) -> HeldOut:
    """Calibration and test frames; the seed decides the halves of rMD17's test frames and nothing else.

    Args:
        limit: at most so many frames of each part, evenly spaced, for short runs.
    """
    from equimd.data import open_dataset
    from equimd.data.bundled import paths
    from equimd.data.dataset import Subset

    if case.name == BUNDLED:
        calibration: Dataset = open_dataset(paths("ethanol-calibration"))
        names = {"300K": "ethanol-test", "600K": "ethanol-600K", "1000K": "ethanol-1000K"}
        tests: dict[str, Dataset] = {split: open_dataset(paths(name)) for split, name in names.items()}
    else:
        found = [path for _, path in problem(case, options).tests]
        both = open_dataset([found[0]])
        rows, half = np.arange(len(both)), len(both) // 2
        if case.name != ACAC:
            rows = np.random.default_rng(seed).permutation(len(both))
        calibration, tests = Subset(both, np.sort(rows[:half])), {case.split: Subset(both, np.sort(rows[half:]))}
        tests |= {split: open_dataset([path]) for split, path in zip(case.outside, found[1:], strict=True)}
    if limit is None:
        return HeldOut(calibration, tests)
    return HeldOut(_thinned(calibration, limit), {split: _thinned(part, limit) for split, part in tests.items()})


def _thinned(data: Dataset, limit: int) -> Dataset:
    from equimd.data.dataset import Subset

    return Subset(data, np.linspace(0, len(data) - 1, min(limit, len(data))).astype(np.int64))


def cases(names: Sequence[str]) -> list[Case]:
    """Cases by name, each once."""
    return [case(name) for name in dict.fromkeys(names)]
