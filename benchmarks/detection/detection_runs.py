"""The runs of the detection suite: recorded, labelled, and some again in real halt mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equimd.benchmarks import kept, models, own_runs
from equimd.benchmarks.detection import labels
from equimd.benchmarks.options import Options
from equimd.benchmarks.pieces import fingerprint
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.data.system import System
from equimd.forces.forcefield import ForceField
from equimd.guard.calibration import Calibration
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.guard.score import Rule
from equimd.md.integrators import Langevin
from equimd.md.simulation import Simulation
from equimd.md.state import maxwell_boltzmann
from equimd.model.interface import Model
from equimd.tasks.calibrate.quality import BAD_QUANTILE
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.uq import metrics

SEED = 2_000_003  # of these runs: no calibration uses it
SAMPLE = 1000  # frames a temperature, evenly drawn, whose sigma is computed exactly: for rates, ranking and plot
DT, FRICTION = 0.5, 0.01  # fs, 1/fs


@dataclass(frozen=True)
class DetectionSize:
    """How much is measured.

    Attributes:
        temperatures: K, the first is that of training. runs: at each. steps: of 0.5 fs.
        label_every: steps between two labelled frames; after alarm and first bad frame ``sparse`` times as many.
        blocks: runs that the halt threshold is taken from. real: runs again in halt mode.
    """

    temperatures: tuple[float, ...] = (300.0, 1000.0)
    runs: int = 20
    steps: int = 40_000
    label_every: int = 10
    blocks: int = 19
    real: int = 5
    replicas: int = 10
    sparse: int = 20


QUICK = DetectionSize(runs=4, steps=300, label_every=20, blocks=9, real=2, replicas=4, sparse=2)


@dataclass(frozen=True)
class Bench:
    """A calibrated model, ready to be run."""

    model: Model
    calibration: Calibration
    data: Dataset
    tau: float
    seed: int

    @property
    def system(self) -> System:
        return System.build(self.data.frames([0]).numbers[0])

    @property
    def rules(self) -> dict[str, Rule]:
        """``halt`` and ``flag`` as calibrated; ``bound``: the error bound is tau, as ``--uq-threshold`` tau asks."""
        choose = self.calibration.choose
        return {"halt": choose("halt"), "flag": choose("flag"), "bound": choose(self.tau)}


def prepare(case: models.Case, options: Options, seed: int, size: DetectionSize) -> Bench:
    """Train or find the model, calibrate it for runs of this length, fix tau."""
    folder = models.trained(case, options, seed)
    held = models.held_out(case, options, seed)
    settings = CalibrationSettings(
        run_length=size.steps, temperature=size.temperatures[0], blocks=size.blocks, seed=seed
    )
    (calibration,) = kept.calibrations(folder, held.calibration, settings, options.work / "detection" / "calibrations")
    model = models.load_model(folder)
    tau = float(np.quantile(max_errors(model, held.calibration), BAD_QUANTILE))
    return Bench(model, calibration, held.tests[case.split], tau, seed)


def max_errors(model: Model, data: Dataset) -> np.ndarray:
    """(N,) largest force error on an atom of each frame, eV/Angstrom."""
    system = System.build(data.frames([0]).numbers[0])
    parts = []
    for block in iterate_blocks(data):
        wrong = models.predicted(model, system, block.positions) - block.forces
        parts.append(np.linalg.norm(wrong, axis=2).max(1))
    return np.concatenate(parts)


def plan(bench: Bench, temperature: float, size: DetectionSize) -> own_runs.Plan:
    """The recorded runs."""
    rules = bench.rules
    return own_runs.Plan(
        temperature=temperature,
        steps=size.steps,
        seed=SEED + bench.seed,
        floor=min(rules[name].decision.level for name in ("halt", "flag")),
        early=(rules["bound"].decision.level, rules["bound"].threshold),
        alarm=rules["halt"].threshold,
        mark=rules["flag"].threshold,
        dt=DT,
        friction=FRICTION,
        keep_every=size.label_every,
        replicas=size.replicas,
    )


def record(bench: Bench, temperature: float, size: DetectionSize, work: Path) -> own_runs.ScoredRuns:
    """The runs, with every step scored."""
    starts = bench.data.frames(np.linspace(0, len(bench.data) - 1, size.runs).round().astype(np.int64))
    return own_runs.run(
        bench.model, bench.rules["halt"].decision, starts, plan(bench, temperature, size), work / "own-runs"
    )


def measure(
    bench: Bench, temperature: float, found: own_runs.ScoredRuns, size: DetectionSize, work: Path, workers: int | None
) -> dict[str, Any]:
    """Label the frames of the runs and say what the rules made of them."""
    rules = bench.rules
    first = {name: found.first_above(rule.decision.level, rule.threshold) for name, rule in rules.items()}
    tasks = [task(bench, found, run, alarm, size) for run, alarm in enumerate(first["halt"])]
    marks = [fingerprint({"x": t.positions[-1], "limit": t.limit, "steps": t.steps}) for t in tasks]
    names = [f"{temperature:g}K-{run:03d}-{mark}" for run, mark in enumerate(marks)]
    errors = labels.label(tasks, work / "labels", names, workers)
    return {
        "runs": [
            story(bench, {name: steps[k] for name, steps in first.items()}, found.stopped.get(k), tasks[k], errors[k])
            for k in range(len(tasks))
        ],
        "frames": frame_rates(bench, tasks, errors, bench.seed),
        "tau": bench.tau,
        "thresholds": {name: rule.threshold for name, rule in rules.items()},
        "expected_halts": list(bench.calibration.halt.false_halts(len(tasks))) if bench.calibration.halt else None,
    }


def task(bench: Bench, found: own_runs.ScoredRuns, run: int, alarm: int | None, size: DetectionSize) -> labels.Task:
    """The frames of one run, kept and marked, in order of time."""
    mine = found.marked_run == run
    steps = np.concatenate([found.kept_steps, found.marked_step[mine]])
    positions = np.concatenate([found.kept[run], found.marked[mine]])
    _, first = np.unique(steps, return_index=True)
    first = first[np.isfinite(positions[first]).all((1, 2))]
    steps, positions = steps[first], positions[first]
    forces = models.predicted(bench.model, bench.system, positions)
    even = steps % (size.label_every * size.sparse) == 0
    always = even | np.isin(steps, found.marked_step[mine])
    numbers = bench.data.frames([0]).numbers[0].astype(np.int64)
    return labels.Task(numbers, positions, forces, steps, always, even, alarm, bench.tau)


def story(
    bench: Bench,
    first: Mapping[str, int | None],
    stopped: tuple[int, str] | None,
    task: labels.Task,
    errors: np.ndarray,
) -> dict[str, Any]:
    """What happened in one run: the first step of each rule, and the first bad frame among the labelled ones."""
    bad = np.flatnonzero(errors > bench.tau)
    step, reason = stopped or (None, None)
    return {
        "first": dict(first),
        "bad": int(task.steps[bad[0]]) if len(bad) else None,
        "labelled": int((~np.isnan(errors)).sum()),
        "n_bad": len(bad),
        "physical_step": step,
        "physical": reason,
    }


def frame_rates(bench: Bench, tasks: Sequence[labels.Task], errors: Sequence[np.ndarray], seed: int) -> dict[str, Any]:
    """Frames evenly spaced in time: exact sigma beside true error; what each rule missed and made up."""
    chosen = [t.even & np.isfinite(e) for t, e in zip(tasks, errors, strict=True)]
    positions = np.concatenate([t.positions[c] for t, c in zip(tasks, chosen, strict=True)])
    true = np.concatenate([e[c] for e, c in zip(errors, chosen, strict=True)])
    rows = np.random.default_rng(seed).permutation(len(true))[:SAMPLE]
    rules = bench.rules
    screened, sigma = kept.scored(bench.model, bench.system, rules["flag"].decision, positions[rows])
    bad = true[rows] > bench.tau
    return {
        "n": len(rows),
        "sigma": sigma,
        "error": true[rows],
        "auroc": metrics.auroc(sigma, bad),
        "bad_share": float(bad.mean()),
        "spearman": metrics.rank_correlation(sigma, true[rows]),
        "rules": {
            name: _shares((sigma > rule.threshold) & ~(screened < rule.decision.level), bad)
            for name, rule in rules.items()
        },
    }


def _shares(over: np.ndarray, bad: np.ndarray) -> dict[str, float | None]:
    """Of all frames, of bad ones those missed, of good ones those made up; None of none."""
    return {
        "share": float(over.mean()),
        "missed_share": float((~over)[bad].mean()) if bad.any() else None,
        "false_share": float(over[~bad].mean()) if (~bad).any() else None,
    }


def real(bench: Bench, temperature: float, found: own_runs.ScoredRuns, size: DetectionSize) -> dict[str, Any]:
    """The first runs again, guarded for real: where each halted, beside the alarm of the recorded run."""
    rows = np.linspace(0, len(bench.data) - 1, size.runs).round().astype(np.int64)[: size.replicas]
    starts, replicas = bench.data.frames(rows), tuple(range(len(rows)))
    halt = bench.rules["halt"]
    system, positions = bench.system, torch.from_numpy(starts.positions.copy())
    limits = Limits.from_reference(system, positions[0])
    judge = Judge.of(bench.model, system, halt, limits=limits)
    simulation = Simulation.start(
        system,
        Langevin(DT, temperature, FRICTION, SEED + bench.seed),
        ForceField(bench.model, system, judge=judge, steps=size.steps),
        positions,
        maxwell_boltzmann(system, positions, temperature, seed=SEED + bench.seed, replicas=replicas, bath=True),
        dof=3 * system.n_atoms,
    )
    wanted = min(size.real, len(rows))
    simulation.run(size.steps, stop=lambda: not any(simulation.state.active[:wanted]))
    halted = {e.replica: e.step for e in simulation.suspects.halts}
    alarms = found.first_above(halt.decision.level, halt.threshold)
    return {"runs": [{"halted": halted.get(k), "alarm": alarms[k]} for k in range(wanted)]}
