"""Time to accuracy: wall seconds from the start of a training to a stated validation error of the forces.

Each potential trains as its users would start it: `equimd train` in a process of its own, SchNetPack's PaiNN by
``peers/schnetpack_painn.py``; the same 950 + 50 frames, one thread, and a learning rate that falls along a cosine over
the same time. A training is stopped when its validation error is first at the target, so that its length is what a
user would have waited; what happens before the first step counts, imports and compilation included. equimd trains
twice for each seed, with nothing compiled before (cold) and with what that left (warm). Seeds take turns, equimd cold,
equimd warm, peer, so that whatever else the machine does meets all of them alike.

A training that is not there when its time ends counts as long as it was given: a ratio to it is a lower bound.

Row names read speed/<molecule>/<batch>/target/<metric>: ``seconds_<who>``, the median over the seeds, for equimd,
equimd-warm and the peer; ``target_ratio_<cold|warm>_vs_<peer>``, medians of the ratios of each seed.
"""

from __future__ import annotations

import csv
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from equimd.benchmarks.accuracy import accuracy_suite
from equimd.benchmarks.options import Options, peer_python, say
from equimd.benchmarks.pieces import MeasuredRow
from equimd.benchmarks.speed.peer_workers import environment
from equimd.errors import MachineError

TARGET = 10.0  # meV/Angstrom
SEEDS = (0, 1, 2)
PEER, BATCH = "schnetpack", 10
COLD, WARM = "equimd", "equimd-warm"
VALIDATION = "val_forces_mae_meV_per_A"
POLL = 0.2  # seconds between looks


def first_at(path: Path, target: float) -> bool:
    """Whether a training's table of epochs holds a validation error at or below ``target``."""
    if not path.exists():
        return False
    with path.open(newline="") as lines:
        values = [row.get(VALIDATION) for row in csv.DictReader(lines)]
    return any(v and float(v) <= target for v in values)


def seconds_until(
    command: Sequence[str], reached: Callable[[], bool], limit: float, variables: Mapping[str, str], log: Path
) -> dict[str, Any]:
    """Start ``command``, stop it when ``reached`` or after ``limit`` seconds: {"seconds", "reached"}.

    Raises:
        MachineError: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=dict(variables))
        try:
            while not (done := reached()) and process.poll() is None and time.monotonic() - began < limit:
                time.sleep(POLL)
            used = time.monotonic() - began
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    if not done and used < limit and process.returncode:
        raise MachineError(f"failed with exit code {process.returncode}", where=command[-1], hint=f"see {log}")
    return {"seconds": used if done else limit, "reached": bool(done)}


def own(
    problem: accuracy_suite.LearningProblem, seed: int, target: float, options: Options, scratch: Path, log: Path
) -> Any:
    """`equimd train`, with the compiled products in ``scratch``."""
    run = scratch / "run"
    shutil.rmtree(run, ignore_errors=True)
    arguments = accuracy_suite.arguments(problem, "conservative", seed, options)
    command = [sys.executable, "-m", "equimd.cli", "train", *arguments, "--out", str(run)]
    metrics = run / "metrics.csv"
    return seconds_until(command, lambda: first_at(metrics, target), options.budget_s, environment(1, scratch), log)


def peer(
    problem: accuracy_suite.LearningProblem, seed: int, target: float, options: Options, scratch: Path, log: Path
) -> Any:
    """SchNetPack's PaiNN, which ends by itself when it is at the target."""
    there = scratch / "reached"
    there.unlink(missing_ok=True)
    files = [str(problem.train), str(problem.tests[0][1]), f"{options.budget_s / 60:g}"]
    more = ["--seed", str(seed), "--target", f"{target:g}", "--reached", str(there)]
    command = [str(peer_python(PEER)), str(accuracy_suite.PEER), *files, *more]
    return seconds_until(command, there.exists, options.budget_s, environment(1), log)


def measure(molecule: str, seed: int, target: float, options: Options) -> dict[str, Any]:
    """One seed: seconds of each potential."""
    problem, found = accuracy_suite.rmd17(options.data, molecule), {}
    with tempfile.TemporaryDirectory(prefix="target-", dir=options.work) as folder:
        scratch, logs = Path(folder), options.work / "speed" / "target" / f"{molecule}-seed{seed}"
        turns = {COLD: own, WARM: own} | ({PEER: peer} if PEER in options.peers else {})
        for who, train in turns.items():
            found[who] = train(problem, seed, target, options, scratch, logs / f"{who}.log")
            said = "" if found[who]["reached"] else ", not reached"
            say(f"  {who}: {found[who]['seconds']:.0f} s to {target:g} meV/A{said}")
    return {"molecule": molecule, "seed": seed, "target": target, "measured": found}


def rows(found: Sequence[Mapping[str, Any]], options: Options) -> list[MeasuredRow]:
    """Medians over the seeds of one molecule."""
    molecule, target = found[0]["molecule"], found[0]["target"]
    seconds = {who: [f["measured"][who]["seconds"] for f in found] for who in found[0]["measured"]}
    command = f"equimd bench speed --molecules {molecule} --parts target --budget {accuracy_suite.budget(options)}"
    name = f"speed/{molecule}/{BATCH}/target"

    def row(metric: str, values: list[float], unit: str, *who: str) -> MeasuredRow:
        missed = [f"{w}, seed {f['seed']}" for w in who for f in found if not f["measured"][w]["reached"]]
        note = f"to {target:g} meV/A" + (f"; not reached: {', '.join(missed)}" if missed else "")
        each = {str(f["seed"]): v for f, v in zip(found, values, strict=True)}
        value, training = statistics.median(values), (options.budget_s, accuracy_suite.FULL, None)
        return MeasuredRow(f"{name}/{metric}", value, unit, command, note, *training, per_seed=each)

    out = [row(f"seconds_{who}", values, "s", who) for who, values in seconds.items()]
    for state, who in (("cold", COLD), ("warm", WARM)):
        if PEER in seconds:
            ratios = [a / b for a, b in zip(seconds[PEER], seconds[who], strict=True)]
            out.append(row(f"target_ratio_{state}_vs_{PEER}", ratios, "1", PEER, who))
    return out
