"""The runs of the detection suite: recorded, labelled, and some again in real halt mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equimd.benchmarks import kept, labels, models, own_runs
from equimd.benchmarks.options import Options
from equimd.benchmarks.pieces import fingerprint
from equimd.calibration.report import BAD_QUANTILE
from equimd.calibration.settings import CalibrationSettings
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.md.forcefield import ForceField
from equimd.md.guard import Guard, Limits, ScoreRule
from equimd.md.integrators import Langevin
from equimd.md.score import SCORE_NAME, SCORE_UNIT, StepScore, score_function
from equimd.md.simulation import Simulation
from equimd.md.state import System, maxwell_boltzmann
from equimd.model import Potential
from equimd.uq import metrics
from equimd.uq.saved import Calibration

SEED = 2_000_003  # of these runs: no calibration uses it
SAMPLE = 1000  # frames a temperature, evenly drawn, whose sigma is computed exactly: for rates, ranking and plot
DT, FRICTION = 0.5, 0.01  # fs, 1/fs


@dataclass(frozen=True)
class Size:
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


QUICK = Size(runs=4, steps=300, label_every=20, blocks=9, real=2, replicas=4, sparse=2)


@dataclass(frozen=True)
class Bench:
    """A calibrated model, ready to be run."""

    model: Potential
    calibration: Calibration
    data: Dataset
    tau: float
    seed: int

    @property
    def system(self) -> System:
        return System.build(self.data.frames([0]).numbers[0])


def prepare(case: models.Case, options: Options, seed: int, size: Size) -> Bench:
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


def max_errors(model: Potential, data: Dataset) -> np.ndarray:
    """(N,) largest force error on an atom of each frame, eV/Angstrom."""
    system = System.build(data.frames([0]).numbers[0])
    parts = []
    for block in iterate_blocks(data):
        wrong = predicted(model, system, block.positions) - block.forces
        parts.append(np.linalg.norm(wrong, axis=2).max(1))
    return np.concatenate(parts)


def predicted(model: Potential, system: System, positions: np.ndarray) -> np.ndarray:
    """(k, n, 3) the model's forces, eV/Angstrom."""
    field = ForceField(model, system, compile="off")
    parts = torch.from_numpy(positions.copy()).split(256)
    return np.concatenate([field(x)[1].numpy() for x in parts])


def plan(bench: Bench, temperature: float, size: Size) -> own_runs.Plan:
    """The recorded runs."""
    (flag_decision, flag), (halt_decision, halt) = (bench.calibration.decision(m) for m in ("flag", "halt"))  # type: ignore[arg-type]
    return own_runs.Plan(
        temperature=temperature,
        steps=size.steps,
        seed=SEED + bench.seed,
        floor=min(flag_decision.level, halt_decision.level),
        alarm=halt,
        mark=flag,
        dt=DT,
        friction=FRICTION,
        keep_every=size.label_every,
        replicas=size.replicas,
    )


def record(bench: Bench, temperature: float, size: Size, work: Path) -> own_runs.OwnRuns:
    """The runs, with every step scored."""
    starts = bench.data.frames(np.linspace(0, len(bench.data) - 1, size.runs).round().astype(np.int64))
    decision, _ = bench.calibration.decision("halt")
    return own_runs.run(bench.model, decision, starts, plan(bench, temperature, size), work / "own-runs")


def measure(
    bench: Bench, temperature: float, found: own_runs.OwnRuns, size: Size, work: Path, workers: int | None
) -> dict[str, Any]:
    """Label the frames of the runs and say what the rules made of them."""
    decision, threshold = bench.calibration.decision("halt")
    alarms = found.first_above(decision.level, threshold)
    tasks = [task(bench, found, run, alarm, size) for run, alarm in enumerate(alarms)]
    marks = [fingerprint({"x": t.positions[-1], "limit": t.limit, "steps": t.steps}) for t in tasks]
    names = [f"{temperature:g}K-{run:03d}-{mark}" for run, mark in enumerate(marks)]
    errors = labels.label(tasks, work / "labels", names, workers)
    return {
        "runs": [story(bench, found, k, alarms[k], tasks[k], errors[k]) for k in range(len(tasks))],
        "frames": frame_rates(bench, tasks, errors, bench.seed),
        "tau": bench.tau,
        "halt": threshold,
        "flag": bench.calibration.decision("flag")[1],
        "expected_halts": list(bench.calibration.halt.false_halts(len(tasks))) if bench.calibration.halt else None,
    }


def task(bench: Bench, found: own_runs.OwnRuns, run: int, alarm: int | None, size: Size) -> labels.Task:
    """The frames of one run, kept and marked, in order of time."""
    mine = found.marked_run == run
    steps = np.concatenate([found.kept_steps, found.marked_step[mine]])
    positions = np.concatenate([found.kept[run], found.marked[mine]])
    _, first = np.unique(steps, return_index=True)
    first = first[np.isfinite(positions[first]).all((1, 2))]
    steps, positions = steps[first], positions[first]
    forces = predicted(bench.model, bench.system, positions)
    even = steps % (size.label_every * size.sparse) == 0
    always = even | np.isin(steps, found.marked_step[mine])
    numbers = bench.data.frames([0]).numbers[0].astype(np.int64)
    return labels.Task(numbers, positions, forces, steps, always, even, alarm, bench.tau)


def story(
    bench: Bench, found: own_runs.OwnRuns, run: int, alarm: int | None, task: labels.Task, errors: np.ndarray
) -> dict[str, Any]:
    """What happened in one run: the first flag, the alarm, the first bad frame among the labelled ones."""
    decision, threshold = bench.calibration.decision("flag")
    scores = found.scores(decision.level)[run]
    over = np.flatnonzero(scores > threshold)
    # after the alarm only the kept frames were scored exactly: shares are taken of these
    at = np.isin(found.steps, found.kept_steps)
    bad = np.flatnonzero(errors > bench.tau)
    first_bad = int(task.steps[bad[0]]) if len(bad) else None
    return {
        "alarm": alarm,
        "flag": int(found.steps[over[0]]) if len(over) else None,
        "bad": first_bad,
        "lead_fs": None if alarm is None or first_bad is None else DT * (first_bad - alarm),
        "flagged": int((scores[at] > threshold).sum()),
        "scored": int(np.isfinite(scores[at]).sum()),
        "labelled": int((~np.isnan(errors)).sum()),
        "n_bad": len(bad),
        "physical_step": found.stopped.get(run, (None, None))[0],
        "physical": found.stopped.get(run, (None, None))[1],
    }


def frame_rates(bench: Bench, tasks: Sequence[labels.Task], errors: Sequence[np.ndarray], seed: int) -> dict[str, Any]:
    """Frames evenly spaced in time: exact sigma beside true error; what the flagging decision missed and made up."""
    chosen = [t.even & np.isfinite(e) for t, e in zip(tasks, errors, strict=True)]
    positions = np.concatenate([t.positions[c] for t, c in zip(tasks, chosen, strict=True)])
    true = np.concatenate([e[c] for e, c in zip(errors, chosen, strict=True)])
    rows = np.random.default_rng(seed).permutation(len(true))[:SAMPLE]
    decision, threshold = bench.calibration.decision("flag")
    field = ForceField(bench.model, bench.system, decision=decision, features=True, compile="off")
    score = StepScore(kept.always_exact(decision), bench.model, bench.system)
    screen, exact = [], []
    for part in torch.from_numpy(positions[rows]).split(64):
        extras = field(part)[2]
        screen.append(extras["screen"].numpy())
        exact.append(score(part, extras)[0].numpy())
    sigma, cleared = np.concatenate(exact), np.concatenate(screen) < decision.level
    bad, flagged = true[rows] > bench.tau, (sigma > threshold) & ~cleared
    return {
        "n": len(rows),
        "sigma": sigma,
        "error": true[rows],
        "auroc": metrics.auroc(sigma, bad),
        "bad_share": float(bad.mean()),
        "flagged_share": float(flagged.mean()),
        "missed_share": float((bad & ~flagged).sum() / bad.sum()) if bad.any() else None,
        "false_share": float((flagged & ~bad).sum() / (~bad).sum()) if (~bad).any() else None,
        "spearman": metrics.rank_correlation(sigma, true[rows]),
    }


def real(bench: Bench, temperature: float, found: own_runs.OwnRuns, size: Size) -> dict[str, Any]:
    """The first runs again, guarded for real: where each halted, beside the alarm of the recorded run."""
    rows = np.linspace(0, len(bench.data) - 1, size.runs).round().astype(np.int64)[: size.replicas]
    starts, replicas = bench.data.frames(rows), tuple(range(len(rows)))
    decision, threshold = bench.calibration.decision("halt")
    system, positions = bench.system, torch.from_numpy(starts.positions.copy())
    rule = ScoreRule(score_function(decision, bench.model, system), threshold, "halt", SCORE_NAME, SCORE_UNIT)
    simulation = Simulation.start(
        system,
        Langevin(DT, temperature, FRICTION, SEED + bench.seed),
        ForceField(bench.model, system, decision=decision, steps=size.steps),
        positions,
        maxwell_boltzmann(system, positions, temperature, seed=SEED + bench.seed, replicas=replicas, bath=True),
        dof=3 * system.n_atoms,
        guard=Guard(Limits.from_reference(system, positions[0]), rule),
    )
    wanted = min(size.real, len(rows))
    simulation.run(size.steps, stop=lambda: not any(simulation.state.active[:wanted]))
    halted = {e.replica: e.step for e in simulation.suspects.halts}
    alarms = found.first_above(decision.level, threshold)
    return {"runs": [{"halted": halted.get(k), "alarm": alarms[k]} for k in range(wanted)]}
