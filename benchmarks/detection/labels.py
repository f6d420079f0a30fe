"""True forces on frames of a model's own runs, by GFN2-xTB, in worker processes; each finished run is kept.

Frames of one run are labelled in order of time, each starting from the electronic solution before it: three times as
fast as from scratch, and forces good to about 1 meV/Angstrom. Labels are sought for the errors of the model: once a run
has had its alarm and its first bad frame, only every ``sparse``-th frame is labelled.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from equimd.benchmarks.options import say
from equimd.files import write_atomic
from equimd.workers import processes, run_all


@dataclass(frozen=True)
class Task:
    """Frames of one run to be labelled.

    Attributes:
        numbers: (n,). positions, forces: (k, n, 3) Angstrom and the model's forces, eV/Angstrom; in order of time.
        steps: (k,). always: (k,) bool, frames that are labelled in any case; even: those of them evenly spaced in time.
        alarm: step of the run's alarm; None without one.
        limit: largest force error, eV/Angstrom, above which a frame is bad.
    """

    numbers: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    steps: np.ndarray
    always: np.ndarray
    even: np.ndarray
    alarm: int | None
    limit: float
    calculator: str = "tblite"


def errors(task: Task) -> np.ndarray:
    """(k,) largest force error on an atom, eV/Angstrom; NaN where not labelled, infinite where the method failed."""
    from ase import Atoms

    from equimd.errors import DataError
    from equimd.methods import make_method

    method = make_method(task.calculator, Atoms(task.numbers, task.positions[0]))
    found = np.full(len(task.steps), np.nan)
    bad = False
    for k, step in enumerate(task.steps):
        over = bad and task.alarm is not None and step > task.alarm
        if over and not task.always[k]:
            continue
        try:
            true = method.propagate(task.positions[k])[1]
        except DataError:
            found[k] = np.inf  # no electronic solution: such a frame is nothing to go on with
        else:
            found[k] = np.linalg.norm(true - task.forces[k], axis=1).max()
        bad = bad or bool(found[k] > task.limit)
    return found


def label(tasks: Sequence[Task], folder: Path, names: Sequence[str], workers: int | None = None) -> list[np.ndarray]:
    """Errors of all tasks; finished ones are read from the folder.

    Args:
        names: of their files, unique to their content.
        workers: processes; None: one a core. 0: this process.
    """
    paths = [folder / f"{name}.npz" for name in names]
    todo = [k for k, path in enumerate(paths) if not path.exists()]
    if workers == 0:
        for k in todo:
            _keep(paths[k], errors(tasks[k]))
    elif todo:
        done = 0

        def finished(k: int, result: np.ndarray) -> None:
            nonlocal done
            _keep(paths[k], result)
            done += 1
            say(f"labels: {done} of {len(todo)} runs")

        with processes(min(workers or os.cpu_count() or 1, len(todo))) as pool:
            run_all(pool, errors, {k: (tasks[k],) for k in todo}, finished)
    out = []
    for path in paths:
        with np.load(path, allow_pickle=False) as saved:
            out.append(saved["errors"])
    return out


def _keep(path: Path, found: np.ndarray) -> None:
    memory = io.BytesIO()
    np.savez(memory, errors=found)
    write_atomic(path, memory.getvalue())
