"""Engines with a model of equimd: lines a user writes, time beside the compiled step, forces, and the guard's halt.

For a molecule, a model of the accuracy suite and a calibration of flags, of each engine that is installed:

- ``glue_lines``: what a user writes to have the model in it (:mod:`equimd.benchmarks.engines.programs`);
- ``overhead_ms``: its step, minus its step with a potential of zero, minus the compiled step, measured in turns;
- ``force_difference_eV_per_A``: the largest component, from the uncompiled ASE calculator;
- ``guard_stops``: 1 if the engine was stopped where ASE is, with score and threshold in the reason that it gives.

Writes engines.json and engines.md.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.benchmarks import models
from equimd.benchmarks.accuracy import accuracy_suite
from equimd.benchmarks.options import Options, say
from equimd.benchmarks.pieces import MeasuredRow, fingerprint, piece
from equimd.benchmarks.results import made_by, merge
from equimd.files import file_digest

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.benchmarks.engines.programs import Engine, Halt
    from equimd.data.dataset import Dataset

MOLECULES = (models.BUNDLED,)
UNITS = {"glue_lines": "lines", "overhead_ms": "ms", "force_difference_eV_per_A": "eV/A", "guard_stops": "1"}


@dataclass(frozen=True)
class EnginesSize:
    """Rounds of so many steps that are timed, frames whose forces are compared, frames calibrated on."""

    rounds: int = 30
    steps: int = 50
    frames: int = 20
    calibration: int = 1000
    compile: str = "on"


QUICK = EnginesSize(rounds=3, steps=5, frames=3, calibration=200, compile="off")


def run(options: Options, *, quick: bool = False) -> Path:
    """Run the suite with the first molecule and seed; returns the table's path."""
    size, case, seed = QUICK if quick else EnginesSize(), models.case(options.molecules[0]), options.seeds[0]
    trained = models.trained(case, options, seed)
    settings = {"model": models.weights_sha256(trained), **asdict(size)}
    folder = options.work / "engines" / fingerprint(settings)
    data = models.held_out(case, options, seed, size.calibration).calibration
    found = piece(folder.parent, f"{case.name}-seed{seed}", settings, lambda: measure(trained, data, folder, size))
    hashes = {path.name: file_digest(path) for path in models.files(case, options)}
    results = merge(options.out / "engines.json", "engines", rows(found, case, options), hashes)
    table = options.out / "engines.md"
    table.write_text(markdown(results))
    return table


def measure(trained: Path, data: Dataset, folder: Path, size: EnginesSize) -> dict[str, Any]:
    """All engines that are installed, for the first of the frames, with a calibration on all of them."""
    import torch

    from equimd.benchmarks.engines.programs import ENGINES
    from equimd.run import Run
    from equimd.tasks.calibrate.settings import CalibrationSettings
    from equimd.tasks.calibrate.task import calibrate, prepare

    torch.set_num_threads(1)
    own = folder / "run"
    shutil.rmtree(folder, ignore_errors=True)  # of a measurement that was interrupted
    shutil.copytree(trained, own)
    calibrate(prepare(Run.open(own), data, CalibrationSettings(halt=False))).calibration.save(own)
    frames = data.frames(np.linspace(0, len(data) - 1, size.frames).astype(np.int64)).to_ase()
    found = {}
    for name, program in ENGINES.items():
        if importlib.util.find_spec(program.package) is None:
            say(f"{name} is not installed")
            continue
        say(name)
        found[name] = _of_engine(program, own, frames, folder / name, size)
    return found


def _of_engine(
    program: type[Engine], run: Path, frames: list[Atoms], folder: Path, size: EnginesSize
) -> dict[str, float]:
    import equimd
    from equimd.benchmarks.engines.programs import AseEngine

    start = _still(frames[0])
    engine = program(run, start, size.compile, folder / "dynamics")
    overhead = _overhead(engine, run, start, size)
    calculator = equimd.load(run).calculator()
    apart = []
    for frame in frames:
        positions, frame.calc = frame.positions.copy(), calculator
        apart.append(np.abs(engine.forces(positions) - frame.get_forces()).max())
    leaving = _leaving(start)
    expected = AseEngine(run, leaving, "off", folder / "ase").halt()
    halt = program(run, leaving, size.compile, folder / "halt").halt()
    return {
        "glue_lines": engine.glue_lines,
        "overhead_ms": overhead,
        "force_difference_eV_per_A": float(max(apart)),
        "guard_stops": float(_same(halt, expected)),
    }


def _overhead(engine: Engine, run: Path, start: Atoms, size: EnginesSize) -> float:
    """ms: the median over rounds, each of which has some steps of all three."""
    import torch

    import equimd

    step = equimd.load(run).step(start, compile=size.compile)  # type: ignore[arg-type]
    x = torch.from_numpy(start.positions.copy())[None]

    def compiled(steps: int) -> None:
        for _ in range(steps):
            step.judge(x, *step.forces(x))  # type: ignore[misc]

    calls, taken = (engine.run, engine.idle, compiled), []
    for _ in range(size.rounds + 1):
        marks = [time.perf_counter()]
        for call in calls:
            call(size.steps)
            marks.append(time.perf_counter())
        with_model, without, own = np.diff(marks)
        taken.append(1e3 * (with_model - without - own) / size.steps)
    return float(np.median(taken[1:]))  # the first round warms up, and compiles


def _still(frame: Atoms) -> Atoms:
    from ase import Atoms

    return Atoms(frame.numbers, frame.positions)


def _leaving(start: Atoms) -> Atoms:
    """Its first hydrogen leaves along the shortest way from its neighbour, with 0.1 Angstrom/fs."""
    from ase import units

    atoms = start.copy()
    k = int(np.flatnonzero(atoms.numbers == 1)[0])
    distances = np.linalg.norm(atoms.positions - atoms.positions[k], axis=1)
    away = atoms.positions[k] - atoms.positions[np.argsort(distances)[1]]
    velocities = np.zeros((len(atoms), 3))
    velocities[k] = 0.1 / units.fs * away / np.linalg.norm(away)
    atoms.set_velocities(velocities)
    return atoms


def _same(halt: Halt | None, expected: Halt | None) -> bool:
    """Whether an engine was stopped as ASE was, give or take one step (leapfrog), and says the score and threshold."""
    if halt is None or expected is None:
        return False
    told = re.search(r"force sigma [\d.]+ above [\d.]+ eV/A", halt[1]) is not None
    return told and abs(halt[0] - expected[0]) <= 1


def rows(found: Mapping[str, Any], case: models.Case, options: Options) -> Iterator[MeasuredRow]:
    """``engines/<engine>/<metric>``."""
    command = f"equimd bench engines --budget {accuracy_suite.budget(options)} --seeds {options.seeds[0]}"
    about = (command, accuracy_suite.preset_name(options), options.budget_s, case.n_train, options.seeds[0])
    for engine, metrics in found.items():
        if isinstance(metrics, dict) and UNITS.keys() <= metrics.keys():
            for metric, unit in UNITS.items():
                yield MeasuredRow(f"engines/{engine}/{metric}", metrics[metric], unit, *about)


def markdown(results: Mapping[str, Any]) -> str:
    """A row an engine."""
    values: dict[str, dict[str, float]] = {}
    for row in results["rows"]:
        _, engine, metric = row["name"].split("/")
        values.setdefault(engine, {})[metric] = row["value"]
    heads = ["engine", "lines to write", "overhead (ms/step)", "largest force difference (eV/A)", "the guard stops it"]
    lines = [heads, ["---"] * len(heads)]
    for engine, v in values.items():
        stops = "yes" if v["guard_stops"] == 1.0 else "no"
        apart = f"{v['force_difference_eV_per_A']:.1e}"
        lines.append([engine, f"{v['glue_lines']:.0f}", f"{v['overhead_ms']:.2f}", apart, stops])
    text = (
        "The overhead is the engine's step, minus its step with a potential of zero, minus the compiled step of equimd,"
        " in turns; below zero it is noise. Forces are compared with those of the uncompiled calculator of ASE."
    )
    made = made_by(results, results["rows"][0]["command"])
    return "\n".join(["# Engines", "", *(f"| {' | '.join(x)} |" for x in lines), "", text, "", made, ""])
