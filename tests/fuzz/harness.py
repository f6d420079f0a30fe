"""Makes inputs from a seed, has them tried, and counts what they end in."""

from __future__ import annotations

import itertools
import json
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds that one input may take, and that a worker may take to start on a busy machine.
LIMIT, START = 20.0, 300.0
GOOD = ("read", "refused")


@dataclass
class Finding:
    """An input that ended in something else than a result or equimd's own error."""

    target: str
    seed: int
    outcome: str
    text: str
    path: Path | None = None


@dataclass
class Results:
    """Counts by target and outcome, and what was found."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def table(self) -> str:
        """A line for each target: how many inputs, and what they ended in."""
        names = ("read", "refused", "traceback", "memory", "hang", "signal")
        lines = [f"{'input':14}{'tried':>8}" + "".join(f"{n:>11}" for n in names)]
        total: Counter[str] = Counter()
        for target, counts in [*sorted(self.counts.items()), ("all", total)]:
            total += counts if target != "all" else Counter()
            lines.append(f"{target:14}{sum(counts.values()):>8}" + "".join(f"{counts[n]:>11}" for n in names))
        return "\n".join(lines)


class Worker:
    """A process that tries inputs; started again after a hang or a death."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def try_(self, target: str, path: Path) -> dict[str, str]:
        """What an input ends in; besides what the worker says, ``hang`` and ``signal``."""
        if self._process is None:
            self._start()
        process = cast("subprocess.Popen[str]", self._process)
        cast("IO[str]", process.stdin).write(f"{target}\t{path}\n")
        cast("IO[str]", process.stdin).flush()
        return self._answer(LIMIT)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if self._answer(START).get("outcome") != "ready":
            raise RuntimeError("the worker does not start: python -m tests.fuzz.worker shows why")

    def _answer(self, limit: float) -> dict[str, str]:
        process = cast("subprocess.Popen[str]", self._process)
        out = cast("IO[str]", process.stdout)
        ready, _, _ = select.select([out], [], [], limit)
        line = out.readline() if ready else ""
        if line:
            return json.loads(line)
        self.close()
        if not ready:
            return {"outcome": "hang", "text": f"no answer within {limit:g} s"}
        return {"outcome": "signal", "text": f"the process ended with {process.returncode}"}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def seeds(first: int, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Targets in turn, each input with a seed of its own."""
    k = first
    while True:
        for name in names:
            yield name, k
            k += 1


def fuzz(
    inputs: int, *, seed: int = 0, targets: Sequence[str] = (), seconds: float | None = None, keep: Path | None = None
) -> Results:
    """Try so many inputs, or as many as fit into ``seconds``.

    Args:
        seed: of the first input; input k has seed + k, and is the same whatever came before it.
        targets: of ``TARGETS``; all by default.
        keep: folder that takes the inputs that were found.
    """
    chosen = itertools.islice(seeds(seed, list(targets) or list(TARGETS)), inputs)
    return each(list(chosen), seconds=seconds, keep=keep)


def each(chosen: Sequence[tuple[str, int]], *, seconds: float | None = None, keep: Path | None = None) -> Results:
    """Try the inputs of these targets and seeds, or as many as fit into ``seconds``."""
    out, worker, began = Results(), Worker(), None
    with tempfile.TemporaryDirectory(prefix="equimd-fuzz-") as folder:
        work = Path(folder)
        made = {name: TARGETS[name].valid(_new(work / f"valid-{name}")) for name in dict(chosen)}
        try:
            for name, number in chosen:
                if began is not None and seconds is not None and time.monotonic() - began > seconds:
                    break
                path = TARGETS[name].spoil(made[name], random.Random(number), _new(work / "input"))
                found = worker.try_(name, path)
                began = began or time.monotonic()  # the start of the worker does not count
                out.counts.setdefault(name, Counter())[found["outcome"]] += 1
                if found["outcome"] not in GOOD:
                    out.findings.append(
                        Finding(name, number, found["outcome"], found["text"], _kept(path, keep, number))
                    )
        finally:
            worker.close()
    return out


def _new(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _kept(path: Path, keep: Path | None, number: int) -> Path | None:
    if keep is None:
        return None
    keep.mkdir(parents=True, exist_ok=True)
    target = keep / f"{number}-{path.name}"
    shutil.copytree(path, target, dirs_exist_ok=True) if path.is_dir() else shutil.copy(path, target)
    return target
