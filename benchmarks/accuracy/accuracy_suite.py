"""Accuracy by the published protocols, in a fixed training time, each model trained by ``equimd train``.

- rMD17: 950 + 50 frames of train_0N, 1000 of test_0N; ten molecules, five splits, learning curves by ``sizes``;
- acetylacetone (Batatia et al. 2022): trained at 300 K, tested at 300 K and at 600 K;
- ethanol by coupled cluster, CCSD(T) (Chmiela et al. 2018): trained on its training file, tested on its test file or,
  without one, on frames left out of the training file.

A finished run is not repeated and an interrupted one is resumed. SchNetPack's PaiNN, if asked for, is trained beside
them on the same rMD17 frames for the same time. Errors: energies in meV a molecule, forces in meV/Angstrom a component.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equimd.benchmarks.options import HERE, Options, find_file, peer_python, rmd17_files, say
from equimd.benchmarks.results import Row, merge
from equimd.errors import DataError, MachineError
from equimd.files import file_digest
from equimd.tasks.train import SHORT_TRAINING

PEER = HERE / "peers" / "schnetpack_painn.py"
MOLECULES = (
    "aspirin", "azobenzene", "benzene", "ethanol", "malonaldehyde",
    "naphthalene", "paracetamol", "salicylic", "toluene", "uracil",
)  # fmt: skip
SPLITS = ("01", "02", "03", "04", "05")
DEFAULT = "default"
PROTOCOL = {"preset", "data", "test_data", "splits", "forces", "max_time", "threads", "seed"}
METRICS = {
    "energy_mae_meV": "meV",
    "forces_mae_meV_per_A": "meV/A",
    "energy_rmse_meV": "meV",
    "forces_rmse_meV_per_A": "meV/A",
}
FULL = 950


@dataclass(frozen=True)
class LearningProblem:
    """One training and its tests.

    Attributes:
        name: <dataset>/<molecule>/<split>, as row names begin.
        counts: training, validation and test frames of the training file; no test frames where there are test files.
        tests: further part of the split's name, and file.
    """

    name: str
    train: Path
    counts: tuple[int, int, int]
    tests: tuple[tuple[str, Path], ...]


def rmd17(folders: Sequence[Path], molecule: str, split: str = "01", size: int = FULL) -> LearningProblem:
    """The published protocol, or a smaller training set of the same split.

    Raises:
        DataError: an unknown molecule or split, or files that are not there.
    """
    if molecule not in MOLECULES or split not in SPLITS:
        raise DataError(f"rMD17 has no {molecule} {split}", hint=f"{', '.join(MOLECULES)}; splits {', '.join(SPLITS)}")
    train, test = rmd17_files(folders, molecule, split)
    name = f"rmd17/{molecule}/{split}" + ("" if size == FULL else f"-n{size}")
    return LearningProblem(name, train, (size, 50, 0), (("", test),))


def acetylacetone(folders: Sequence[Path]) -> LearningProblem:
    """Trained at 300 K (450 + 50 frames), tested at 300 K and 600 K."""
    hint = "--data FOLDER with the AcAc files train_300K.xyz, test_MD_300K.xyz, test_MD_600K.xyz"
    train = find_file(folders, "train_300K.xyz", hint)
    tests = tuple((f"-{t}", find_file((train.parent,), f"test_MD_{t}.xyz", hint)) for t in ("300K", "600K"))
    return LearningProblem("acac/acetylacetone/300K", train, (450, 50, 0), tests)


def coupled_cluster(folders: Sequence[Path]) -> LearningProblem:
    """Ethanol by CCSD(T): 950 + 50 frames and the test file, else 750 + 50 and the 200 that are left."""
    hint = "--data FOLDER with ethanol_ccsd_t-train.npz (equimd data list ccsd)"
    train = find_file(folders, "ethanol_ccsd_t-train.npz", hint)
    test = train.with_name("ethanol_ccsd_t-test.npz")
    if test.is_file():
        return LearningProblem("ccsd/ethanol/published", train, (950, 50, 0), (("", test),))
    return LearningProblem("ccsd/ethanol/random", train, (750, 50, 200), ())


def train(problem: LearningProblem, variant: str, seed: int, options: Options, pretrain: str | None = None) -> Path:
    """Train one model, or finish or reuse the run that is there; returns its folder.

    ``pretrain``: a method, such as gfn2, whose frames are made and learned first, within the same time.

    Raises:
        MachineError: the training failed; what it said stands above.
    """
    name = problem.name.removeprefix("rmd17/").replace("/", "-")
    asked = f"-{options.preset}" if options.preset else ""
    asked += f"-{pretrain}" if pretrain else ""
    run = options.work / "accuracy" / f"{name}-{variant}{asked}-{budget(options)}-seed{seed}"
    if (run / "test.json").exists():
        return run
    cheap = ["--pretrain", pretrain] if pretrain else []
    new = [*arguments(problem, variant, seed, options), *cheap, "--out", str(run)]
    equimd("train", *(["--resume", str(run)] if run.exists() else new))
    return run


def arguments(problem: LearningProblem, variant: str, seed: int, options: Options) -> list[str]:
    """Of `equimd train` for a problem, but the folder of the run."""
    found = ["--data", str(problem.train), "--splits", *map(str, problem.counts)]
    if problem.tests:
        found += ["--test-data", str(problem.tests[0][1])]
    found += [*preset(options), "--forces", variant, "--max-time", budget(options), "--threads", "1"]
    return [*found, "--seed", str(seed)]


def equimd(*arguments: str) -> str:
    """What an equimd command prints.

    Raises:
        MachineError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "equimd.cli", *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise MachineError(f"failed with exit code {done.returncode}", where="equimd " + shlex.join(arguments))
    return done.stdout


def budget(options: Options) -> str:
    """The training time as it is written on a command line and in folder names."""
    return f"{options.budget_s / 60:g}m"


def preset_name(options: Options) -> str:
    """What is trained: what was asked for, else the small model where the time would not bring the default one far."""
    return options.preset or ("small" if options.budget_s < SHORT_TRAINING else DEFAULT)


def preset(options: Options) -> list[str]:
    """The same as options of a training."""
    name = preset_name(options)
    return [] if name == DEFAULT else ["--preset", name]


def errors(problem: LearningProblem, run: Path) -> dict[str, dict[str, float]]:
    """The errors on every test, by the split's full name."""
    found = {}
    for number, (suffix, path) in enumerate(problem.tests or (("", problem.train),)):
        kept = run / ("test.json" if not number else f"test{suffix}.json")
        if not kept.exists():
            kept.write_text(equimd("evaluate", str(run), "--data", str(path), "--json"))
        found[problem.name + suffix] = json.loads(kept.read_text())
    return found


def settings(run: Path) -> dict[str, Any]:
    """The settings of a run that are not those of today's presets: what its command line must say."""
    from equimd.config import PRESETS, flat_config, parse_config, read_config, saved_model

    found = flat_config(parse_config(saved_model(read_config(run / "config.yaml")), where=str(run)))
    stated = []
    for name in PRESETS:
        preset = flat_config(parse_config({"preset": name}))
        named = {} if name == DEFAULT else {"preset": name}
        stated.append({**named, **{key: value for key, value in found.items() if value != preset[key]}})
    return min(stated, key=lambda values: len(values.keys() - {"preset"}))


def option(key: str, value: Any) -> list[str]:
    """A setting as it is written on the command line, files without their folder."""
    if key == "max_time":
        value = f"{value / 60:g}m"
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{key.replace('_', '-')}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{key.replace('_', '-')}", *(Path(str(v)).name for v in values)]


def rows(problem: LearningProblem, variant: str, seed: int, run: Path, options: Options) -> list[Row]:
    """The figures of a finished run."""
    stated = settings(run)
    shown = shlex.join(["equimd", "train", *(word for item in stated.items() for word in option(*item))])
    extra = [" ".join(option(*item)) for item in stated.items() if item[0] not in PROTOCOL]
    name = stated.get("preset", DEFAULT)
    preset_ = ", ".join([name, *extra])
    label = row_variant(variant, name) + ("-pretrained" if "pretrain" in stated else "")
    label += f"-seed{seed}" if seed else ""
    return [
        Row(f"{test}/{label}/{m}", found[m], unit, shown, preset_, options.budget_s, problem.counts[0], seed)
        for test, found in errors(problem, run).items()
        for m, unit in METRICS.items()
    ]


def row_variant(variant: str, preset: str) -> str:
    """The variant as names of rows have it: the preset is said unless it is the default."""
    return variant if preset == DEFAULT else f"{variant}-{preset}"


def schnetpack(problem: LearningProblem, options: Options) -> list[Row]:
    """SchNetPack's PaiNN on the same frames for the same time; a finished training is not repeated."""
    files = [problem.train, problem.tests[0][1]]
    name = problem.name.removeprefix("rmd17/").replace("/", "-")
    kept = options.work / "accuracy" / f"{name}-schnetpack-{budget(options)}.json"
    if not kept.exists():
        command = [str(peer_python("schnetpack")), str(PEER), *map(str, files), f"{options.budget_s / 60:g}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise MachineError(f"failed with exit code {done.returncode}", where=PEER.name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout)
    found = json.loads(kept.read_text())
    words = ["python", f"benchmarks/peers/{PEER.name}", *[f.name for f in files], f"{options.budget_s / 60:g}"]
    shown, preset = shlex.join(words), f"schnetpack {found['version']}"
    row_name = f"{problem.name}/schnetpack-painn"
    return [
        Row(f"{row_name}/{m}", found[m], unit, shown, preset, options.budget_s, FULL, 0)
        for m, unit in METRICS.items()
        if m in found
    ]


def run(
    options: Options,
    *,
    splits: Sequence[str] = ("01",),
    variants: Sequence[str] = ("conservative",),
    sizes: Sequence[int] = (FULL,),
    acac: bool = False,
    ccsd: bool = False,
    pretrain: str | None = None,
) -> Path:
    """Run the suite; returns the table's path.

    Args:
        splits: of rMD17. variants: of the forces. sizes: training frames of rMD17, for learning curves.
        acac, ccsd: these data sets, too.
        pretrain: as of :func:`train`; such rows stand beside those without.
    """
    from equimd.benchmarks.accuracy.accuracy_tables import write

    problems = [rmd17(options.data, m, s, n) for m in options.molecules for s in splits for n in sizes]
    problems += [acetylacetone(options.data)] if acac else []
    problems += [coupled_cluster(options.data)] if ccsd else []
    if set(options.peers) - {"schnetpack"}:
        say("accuracy: schnetpack is the peer that is trained again; the others stand by their published figures")
    for problem in problems:
        files = {p.name: file_digest(p) for p in (problem.train, *(path for _, path in problem.tests))}

        def record(new: list[Row], files: dict[str, str] = files) -> None:
            write(merge(options.out / "accuracy.json", "accuracy", new, files), options.out)

        for variant in variants:
            for seed in options.seeds:
                told = f", pretrained by {pretrain}" if pretrain else ""
                say(f"accuracy {problem.name}, {variant}{told}, seed {seed}, {budget(options)}")
                record(rows(problem, variant, seed, train(problem, variant, seed, options, pretrain), options))
        if "schnetpack" in options.peers and problem.name.startswith("rmd17/") and problem.counts[0] == FULL:
            say(f"accuracy {problem.name}, schnetpack, {budget(options)}")
            record(schnetpack(problem, options))
    return options.out / "accuracy.md"
