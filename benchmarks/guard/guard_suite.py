"""The guard along two trajectories, beside the true error: what README shows.

A model trained on the bundled 300 K ethanol is calibrated to halt 5 % of such runs, and simulates from the relaxed
molecule: at 300 K, and at 1000 K, where it is halted. A run that was halted is made again with ``--on-exceed flag``:
the same steps, and what would have come after them. Of every saved frame: the error bound that the model states, its
exact force sigma times the calibrated multiplier, and afterwards the true error, by GFN2-xTB.

Writes guard.json, with both traces, and from it guard.md and guard.png.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.benchmarks import kept, models
from equimd.benchmarks.accuracy import accuracy_suite
from equimd.benchmarks.options import Options, say
from equimd.benchmarks.pieces import MeasuredRow, fingerprint, piece
from equimd.benchmarks.results import merge
from equimd.files import file_digest

if TYPE_CHECKING:
    from equimd.calculators import LoadedModel
    from equimd.data.given import GivenData
    from equimd.guard.calibration import Calibration
    from equimd.md.trajectory import Trajectory

MOLECULES = (models.BUNDLED,)
EVERY = 10  # steps between two frames that are saved, and labelled


@dataclass(frozen=True)
class GuardSize:
    """Temperatures (K), the first that of training; steps of 0.5 fs of a run; and the calibration for such runs."""

    temperatures: tuple[float, ...] = (300.0, 1000.0)
    steps: int = 2000
    false_halt_rate: float = 0.05
    blocks: int = 19


QUICK = GuardSize(steps=100, false_halt_rate=0.1, blocks=9)


@dataclass(frozen=True)
class TraceRow(MeasuredRow):
    """A figure with what it is of, frame by frame.

    Attributes:
        trace: ``time_fs``, ``bound`` and ``error`` (eV/Angstrom; None where GFN2-xTB gave none) of the frames,
            ``halted_fs`` (None if the run went through), and ``ended`` (why it ended early, or None).
    """

    trace: dict[str, Any] | None = None


def run(options: Options, *, quick: bool = False) -> Path:
    """Run the suite with the first of the seeds; returns the table's path."""
    from equimd.benchmarks.guard import guard_tables

    size, case, seed = QUICK if quick else GuardSize(), models.case(models.BUNDLED), options.seeds[0]
    trained = models.trained(case, options, seed)
    settings = {"model": models.weights_sha256(trained), **asdict(size)}
    folder = options.work / "guard" / fingerprint(settings)
    found = piece(folder.parent, f"guard-seed{seed}", settings, lambda: measure(trained, folder, size, seed))
    hashes = {path.name: file_digest(path) for path in models.files(case, options)}
    error = json.loads((trained / "test.json").read_text())["forces_mae_meV_per_A"]
    merge(options.out / "guard.json", "guard", rows(found, error, case, options), hashes)
    return guard_tables.write(options.out)


def measure(
    trained: Path,
    folder: Path,
    size: GuardSize,
    seed: int,
    data: GivenData = "bundled:ethanol",
    molecule: str = "ethanol",
) -> dict[str, Any]:
    """Calibrate a copy of the run on frames it never saw, simulate from a structure, and label."""
    import equimd

    run = folder / "run"
    shutil.rmtree(folder, ignore_errors=True)  # of a measurement that was interrupted
    shutil.copytree(trained, run)
    say("calibrating")
    calibrated = equimd.calibrate(
        run,
        data,
        overwrite=True,
        threads=1,
        temperature=size.temperatures[0],
        run_length=size.steps,
        false_halt_rate=size.false_halt_rate,
        blocks=size.blocks,
        seed=seed,
    )
    model, calibration = calibrated.model(), calibrated.calibration
    threshold = calibration.decision("halt")[1]
    multiplier = calibration.error.multiplier
    return {
        "threshold": multiplier * threshold,
        "multiplier": multiplier,
        "coverage": calibration.error.coverage,
        "traces": {f"{t:g}K": trace(model, calibration, folder, molecule, t, size, seed) for t in size.temperatures},
    }


def trace(
    model: LoadedModel,
    calibration: Calibration,
    folder: Path,
    molecule: str,
    temperature: float,
    size: GuardSize,
    seed: int,
) -> dict[str, Any]:
    """A guarded run at a temperature (K), and a halted one to its end: see :class:`TraceRow`."""
    import equimd

    say(f"{temperature:g} K")
    common: dict[str, Any] = {"temperature": temperature, "steps": size.steps, "save_every": EVERY, "seed": seed}
    common |= {"relax": True, "uq_threshold": "halt", "compile": "off"}
    run, name = folder / "run", f"{temperature:g}K"
    done = equimd.simulate(run, molecule, out=folder / name, **common)
    stopped = done.halted[0]["step"] if done.halted else None
    if stopped is not None:
        done = equimd.simulate(run, molecule, out=folder / f"{name}-on", on_exceed="flag", **common)
    trajectory = done.trajectory()
    return {
        "time_fs": trajectory.time,
        "bound": bounds(model, calibration, trajectory),
        "error": true_errors(trajectory),
        "halted_fs": None if stopped is None else stopped * done.summary["settings"]["dt"],
        "ended": done.halted[0]["reason"] if done.halted else None,
    }


def bounds(model: LoadedModel, calibration: Calibration, trajectory: Trajectory) -> np.ndarray:
    """(T,) the stated bound on the largest force error of each frame, eV/Angstrom: exact sigma times its multiplier."""
    from equimd.data.system import System

    decision = calibration.decision("halt")[0]
    _, sigma = kept.scored(model.potential, System.build(trajectory.numbers), decision, trajectory.positions)
    return calibration.error.multiplier * sigma


def true_errors(trajectory: Trajectory) -> np.ndarray:
    """(T,) the largest force error on an atom of each frame by GFN2-xTB, eV/Angstrom; infinite where it gave none."""
    from equimd.benchmarks.detection import labels

    every = np.ones(len(trajectory), bool)
    numbers, steps = trajectory.numbers.astype(np.int64), trajectory.step
    return labels.errors(
        labels.Task(numbers, trajectory.positions, trajectory.forces, steps, every, every, None, np.inf)
    )


def rows(found: Mapping[str, Any], error: float, case: models.Case, options: Options) -> Iterator[MeasuredRow]:
    """The figures, and the traces with them."""
    command = f"equimd bench guard --budget {accuracy_suite.budget(options)} --seeds {options.seeds[0]}"
    about = (command, accuracy_suite.preset_name(options), options.budget_s, case.n_train, options.seeds[0])
    home = f"{case.row}/guard"
    yield MeasuredRow(f"{home}/forces_mae_meV_per_A", error, "meV/A", *about)
    for name, unit in (("threshold", "eV/A"), ("multiplier", "1"), ("coverage", "1")):
        yield MeasuredRow(f"{home}/{name}", found[name], unit, *about)
    for split, frames in found["traces"].items():
        shown = {k: [v if v is None else round(v, 5) for v in frames[k]] for k in ("time_fs", "bound", "error")}
        yield TraceRow(
            f"{case.row_of(split)}/guard/frames", len(frames["error"]), "frames", *about, trace={**frames, **shown}
        )
