"""Speed: a training step, a step of dynamics, many replicas; equimd and its peers side by side, in one run.

Each potential is a process of its own (:mod:`.workers`). All are made ready, then measured in turns,
A B C A B C, so that whatever else the machine does meets all of them alike. Figures are medians over the rounds of the
time of one step; ratios are medians of the ratios within each round. On one thread CPU time is compared, on several
wall time. Everyone has real rMD17 frames, batches made beforehand, and the optimiser's step included.

- train: the step of `equimd train` against the peers' models, losses and AdamW;
- md, one molecule: the loop of `equimd simulate`, files included, against the peers' ASE calculators under ASE's
  velocity Verlet, without files; with a calibrated run, also the guard of every step against none;
- md, 32 replicas: frames for a second of one CPU, and how many more than with one molecule after the other;
- useful work over the peak of matrix products, measured in the same rounds: the work is the forward pass's by count
  (16.7 MFLOP for ethanol, 45.3 for aspirin), twice that with forces, six times in training;
- peak memory of training; the time to the first step with nothing compiled, and with everything compiled before;
- the time to a stated accuracy, where asked for (:mod:`.target`);
- large periodic systems, time and memory against the number of atoms (:mod:`.large`).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from equimd.benchmarks.options import HERE, Options, rmd17_files, say
from equimd.benchmarks.results import Row, merge
from equimd.benchmarks.speed.peer_workers import Worker, prepared
from equimd.errors import ConfigError, EquimdError
from equimd.files import file_digest, sha256_of, write_atomic

REPLICAS = 32
TRAINING = (("ethanol", 10), ("ethanol", 64), ("aspirin", 10))
MEMORY, MEMORY_PEERS = ("aspirin", 64), ("schnetpack", "nequip")
GEMM = "gemm"
OWN = ("equimd", "equimd-single", "equimd-run", "equimd-guard")
PARTS = ("steps", "memory", "compile", "large")
ALL_PARTS = (*PARTS, "target")  # trainings of the budget, three times for each of three seeds: only where asked for


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, seconds of one measurement and of the warm-up before the first."""

    rounds: int = 9
    seconds: float = 2.0
    warm_up: float = 3.0


QUICK = Effort(3, 0.5, 0.5)


@dataclass(frozen=True)
class SpeedCase:
    """One comparison: what is done, to which molecule, how many frames a step, on how many threads."""

    molecule: str
    batch: int
    what: str
    threads: int = 1

    @property
    def name(self) -> str:
        """As row names have it: <molecule>/<batch>/<what>."""
        return f"{self.molecule}/{self.batch}/{self.what}" + (f"-{self.threads}threads" if self.threads > 1 else "")


def cases(molecules: tuple[str, ...], threads: tuple[int, ...]) -> list[SpeedCase]:
    """All comparisons of those molecules."""
    found = []
    for n in threads:
        found += [SpeedCase(molecule, batch, "train", n) for molecule, batch in TRAINING if molecule in molecules]
        found += [SpeedCase(molecule, batch, "md", n) for molecule in molecules for batch in (1, REPLICAS)]
    return found


def tasks(
    case: SpeedCase, data: Path, options: Options, runs: Mapping[str, Path], effort: Effort
) -> list[tuple[str, dict]]:
    """Who takes part in a comparison, by label, and the task of each."""
    base = {
        "what": case.what,
        "molecule": case.molecule,
        "data": str(data.absolute()),
        "batch": case.batch,
        "seconds": effort.warm_up,
    }
    found = [("equimd", {**base, "worker": "equimd"})]
    if case.what == "md" and case.batch > 1:
        found.append(("equimd-single", {**base, "worker": "equimd", "batch": 1}))
    if case.what == "md" and case.molecule in runs:
        run = {**base, "worker": "equimd", "run": str(runs[case.molecule].absolute())}
        found += [("equimd-run", run), ("equimd-guard", {**run, "guard": True})]
    found += [(peer, {**base, "worker": peer}) for peer in options.peers]
    return [*found, (GEMM, {**base, "worker": "equimd", "what": "gemm"})]


def compare(case: SpeedCase, options: Options, runs: Mapping[str, Path], effort: Effort) -> dict[str, Any]:
    """Measure one comparison: by label the model and, for every round, CPU and wall milliseconds of a step."""
    data, _ = rmd17_files(options.data, case.molecule)
    listed = tasks(case, data, options, runs, effort)
    logs = options.work / "speed" / case.name.replace("/", "-")
    before = os.getloadavg()[0]
    with prepared(listed, case.threads, logs) as (workers, about, failed):
        for label, reason in failed.items():
            say(f"  {label} left out: {reason}")
        times: dict[str, dict[str, list[float]]] = {label: {"cpu_ms": [], "wall_ms": []} for label in workers}
        for number in range(effort.rounds):
            say(f"  round {number + 1} of {effort.rounds}")
            for label, worker in workers.items():
                found = worker.ask("measure", seconds=effort.seconds)
                for kind in ("cpu", "wall"):
                    times[label][f"{kind}_ms"].append(1e3 * found[f"{kind}_s"] / found["steps"])
    measured = {label: {**about[label], **times[label]} for label in workers}
    return {"case": asdict(case), "measured": measured, "failed": failed, "load_before": before}


def memory(options: Options) -> dict[str, Any]:
    """High-water marks of resident memory in training, one potential after the other."""
    molecule, batch = MEMORY
    data, _ = rmd17_files(options.data, molecule)
    found: dict[str, Any] = {"case": asdict(SpeedCase(molecule, batch, "train")), "measured": {}, "failed": {}}
    for label in ("equimd", *(p for p in options.peers if p in MEMORY_PEERS)):
        task = {"what": "train", "molecule": molecule, "data": str(data.absolute()), "batch": batch, "threads": 1}
        log = options.work / "speed" / "memory" / f"{label}.log"
        say(f"  {label}")
        try:
            with Worker(label, 1, log) as worker:
                about = worker.ask("prepare", task=task)
                found["measured"][label] = {**about, **worker.ask("memory", steps=5)}
        except EquimdError as error:
            found["failed"][label] = error.what
            say(f"  {label} left out: {error.what}")
    return found


def first_steps(case: SpeedCase, options: Options) -> dict[str, Any]:
    """Wall and CPU seconds from a model that is not there to its first finished step, compiled anew and from caches."""
    data, _ = rmd17_files(options.data, case.molecule)
    found: dict[str, Any] = {"case": asdict(case), "measured": {}, "failed": {}}
    task = {"what": case.what, "molecule": case.molecule, "data": str(data.absolute()), "batch": case.batch}
    for label in ("equimd", *(p for p in options.peers if p in ("schnetpack", "nequip"))):
        folder = Path(tempfile.mkdtemp(prefix="speed-", dir=options.work))
        try:
            for state in ("cold", "warm"):
                say(f"  {label}, {state}")
                log = options.work / "speed" / "first-step" / f"{label}.log"
                with Worker(label, 1, log, cache=folder) as worker:
                    about = worker.ask("prepare", task={**task, "threads": 1})
                entry = found["measured"].setdefault(label, {"model": about["model"]})
                entry |= {f"{state}_wall_s": about["wall_s"], f"{state}_cpu_s": about["cpu_s"]}
        except EquimdError as error:
            found["failed"][label] = error.what
            say(f"  {label} left out: {error.what}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def source_digest() -> str:
    """A hash of equimd's own code: measurements of other code are not reused."""
    import equimd

    folders = (Path(equimd.__file__).parent, HERE)
    paths = [path for f in folders for path in sorted([*f.rglob("*.py"), *f.rglob("*.cpp")])]
    return sha256_of(path.read_bytes() for path in paths)


def kept(name: str, key: dict[str, Any], measure: Any, *, options: Options) -> dict[str, Any]:
    """A measurement, from the work folder if it was made before in the same way, else made now and kept."""
    path = options.work / "speed" / f"{name.replace('/', '-')}.json"
    key = {**key, "source": source_digest(), "peers": list(options.peers)}
    if path.exists():
        old = json.loads(path.read_text())
        if old["key"] == json.loads(json.dumps(key)):
            say(f"speed {name}: measured before")
            return old
    say(f"speed {name}")
    began = time.monotonic()
    found = {"name": name, "key": key, **measure(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    say(f"  {time.monotonic() - began:.0f} s")
    write_atomic(path, json.dumps(found, indent=1))
    return found


def spread(values: list[float]) -> float:
    """Half of the distance between the quartiles, over the median; 0 for one value."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle


def parse_runs(given: Sequence[str]) -> dict[str, Path]:
    """``ethanol=RUN`` as a mapping.

    Raises:
        ConfigError: written in another way, or no such folder.
    """
    found = {}
    for item in given:
        molecule, equals, folder = item.partition("=")
        if not equals or not Path(folder).is_dir():
            raise ConfigError(f"--runs {item}", hint="--runs ethanol=RUN, a run folder that is calibrated")
        found[molecule] = Path(folder)
    return found


def run(
    options: Options,
    *,
    threads: tuple[int, ...] = (),
    runs: Mapping[str, Path] | None = None,
    quick: bool = False,
    parts: tuple[str, ...] = PARTS,
) -> Path:
    """Run the suite; returns the table's path. What was measured before, by the same code, is not measured again.

    Args:
        threads: numbers of CPU threads; none: 1, and all cores.
        runs: calibrated runs by molecule, for the guard.
        quick: few and short measurements on one thread.
        parts: of the suite.
    """
    from equimd.benchmarks.speed import large, speed_tables, target

    effort = QUICK if quick else Effort()
    chosen = threads or ((1,) if quick else tuple(sorted({1, os.cpu_count() or 1})))
    trained = dict(runs or {})
    options.work.mkdir(parents=True, exist_ok=True)
    if (load := os.getloadavg()[0]) > 0.5:
        say(f"warning: other processes are running (load {load:.1f}); wall times will show it")

    def record(new: list[Row], molecules: tuple[str, ...] = options.molecules) -> None:
        files = [p for m in molecules for p in rmd17_files(options.data, m)[:1]]
        results = merge(options.out / "speed.json", "speed", new, {f.name: file_digest(f) for f in files})
        speed_tables.write(results, options.out)

    if "steps" in parts:
        for case in cases(options.molecules, chosen):
            key = {**asdict(effort), "runs": {m: str(p) for m, p in trained.items()}}
            found = kept(case.name, key, lambda case=case: compare(case, options, trained, effort), options=options)
            record(speed_tables.step_rows(case, found))
    if "memory" in parts and MEMORY[0] in options.molecules:
        record(speed_tables.memory_rows(kept("memory", {}, lambda: memory(options), options=options)))
    if "compile" in parts:
        for molecule in options.molecules:
            for case in (SpeedCase(molecule, 10, "train"), SpeedCase(molecule, 1, "md")):
                make = partial(first_steps, case, options)
                found = kept(f"compile/{case.name}", {}, make, options=options)
                record(speed_tables.first_step_rows(case, found))
    if "large" in parts:
        for n in chosen:
            record(large.run(options, n, quick=quick, kept=partial(kept, options=options)), ())
    for molecule in options.molecules if "target" in parts else ():
        found = [
            kept(
                f"target/{molecule}-seed{seed}",
                {"budget": options.budget_s, "target": target.TARGET},
                partial(target.measure, molecule, seed, target.TARGET, options),
                options=options,
            )
            for seed in target.SEEDS
        ]
        record(target.rows(found, options), (molecule,))
    return options.out / "speed.md"
