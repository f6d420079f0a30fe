"""Starts commands, kills them at moments drawn from a seed, goes on with them, and compares what they leave."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kills.cases import CASES, Case, new_folder

ROOT = Path(__file__).resolve().parent.parent.parent
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
#: Exit codes of work that is done; seconds in which a command ends, and ends after a signal.
DONE, LIMIT, POLITE = (0, 3), 600.0, 90.0
EARLY = 0.3  # share of the kills within the first two seconds
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg", "EQUIMD_DEBUG": "0"}


@dataclass
class Trial:
    """One fault, and what was wrong with what came of it; nothing if all is as it should be."""

    fault: str
    case: str
    seed: int
    moment: float = 0.0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Ended:
    """A process that has ended, its words on stderr, and whether it left others behind."""

    code: int
    said: str
    orphans: bool


def run(words: str, folder: Path, number: int | None = None, moment: float = 0.0, **more: Any) -> Ended:
    """``equimd WORDS`` in a folder, sent a signal after ``moment`` seconds, if it is still there."""
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT), "EQUIMD_CACHE": str(folder.parent / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "equimd.cli", *words.split()], cwd=folder, env={**environment, **more}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        try:
            said = process.communicate(timeout=LIMIT if number is None else moment)[1]
        except subprocess.TimeoutExpired:
            if number is None:
                raise
            process.send_signal(number)
            said = process.communicate(timeout=POLITE)[1]
        orphans = _left(process.pid)
    except subprocess.TimeoutExpired:
        said, orphans = "no end", False
    finally:
        if _left(process.pid, 0.0):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Ended(process.returncode, said, orphans)


def _left(group: int, patience: float = 5.0) -> bool:
    """Whether processes of a session are still there after some seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        if time.monotonic() >= end:
            return True
        time.sleep(0.05)


def _starting(ended: Ended, number: int | None) -> bool:
    """Whether the signal found Python itself starting, before a line of equimd had run."""
    ours = any(f"{ROOT}/{part}/" in ended.said for part in ("equimd", "cli"))
    return (number == signal.SIGINT and "KeyboardInterrupt" in ended.said and not ours) or (
        number == signal.SIGTERM and ended.code == -signal.SIGTERM and not ended.said
    )


def _good(ended: Ended, number: int | None) -> list[str]:
    """What is wrong with how a process ended."""
    if _starting(ended, number):
        return []
    codes = {*DONE, *(() if number is None else (-9,) if number == signal.SIGKILL else (130,))}
    found = [] if ended.code in codes else [f"exit code {ended.code}: {ended.said[-400:]}"]
    if "Traceback" in ended.said or "Exception ignored" in ended.said:
        found.append(f"a traceback: {ended.said[-800:]}")
    return found + (["processes left behind"] if ended.orphans else [])


def kill(name: str, case: Case, whole: Any, number: signal.Signals, moment: float, folder: Path) -> list[str]:
    """Kill a case after ``moment`` seconds, go on with it, and compare."""
    new_folder(case, folder)
    ended = run(case.begin, folder, number, moment)
    wrong = _good(ended, number)
    if ended.code not in DONE and not (folder / "out.h5").exists():  # which appears when it is whole
        there = bool(case.mark) and (folder / case.mark).exists()
        again = run(case.resume if there else f"{case.begin} --overwrite" if case.mark else case.begin, folder)
        wrong += _good(again, None)
    left = [str(p.relative_to(folder)) for p in folder.rglob("*") if ".part" in p.name]
    wrong += [f"left behind: {left}"] if left else []
    try:
        found = case.result(folder)
    except Exception as error:
        return [*wrong, f"no result: {error!r}"]
    return wrong + ([] if found == whole else [f"another result: {_first_difference(whole, found)}"])


def _first_difference(a: Any, b: Any, where: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = [(k, a.get(k), b.get(k)) for k in {**a, **b}]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(k, x, y) for k, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return f"{where}: {str(a)[:200]} and {str(b)[:200]}"
    return next(_first_difference(x, y, f"{where}/{k}") for k, x, y in pairs if x != y)


def kills(count: int, *, seed: int = 0, names: Sequence[str] = (), seconds: float | None = None) -> list[Trial]:
    """So many kills, over the cases in turn.

    Args:
        seed: of the first; kill k has seed + k.
        names: of ``CASES``; all by default.
        seconds: begin none after so long.
    """
    chosen, trials = list(names or CASES), list[Trial]()
    began, whole = time.monotonic(), dict[str, tuple[Any, float]]()
    with tempfile.TemporaryDirectory(prefix="equimd-kills-") as temporary:
        for k in range(seed, seed + count):
            name = chosen[k % len(chosen)]
            if seconds is not None and time.monotonic() - began > seconds:
                break
            if name not in whole:
                whole[name] = _uninterrupted(CASES[name], Path(temporary) / name)
            rng = random.Random(k)
            number = rng.choice(SIGNALS)
            moment = rng.uniform(0.1, 2.0 if rng.random() < EARLY else whole[name][1])
            folder = Path(temporary) / f"{name}-{k}"
            wrong = kill(name, CASES[name], whole[name][0], number, moment, folder)
            shutil.rmtree(folder)
            trials.append(Trial(number.name, name, k, moment, wrong))
            print(f"{name} --seed {k}: {number.name} at {moment:.2f} s: {wrong or 'as it should be'}", file=sys.stderr)
    return trials


def _uninterrupted(case: Case, folder: Path) -> tuple[Any, float]:
    """What a case leaves if nobody kills it, and how long it takes."""
    new_folder(case, folder)
    began = time.monotonic()
    ended = run(case.begin, folder)
    if wrong := _good(ended, None):
        raise RuntimeError(f"{case.begin}: {wrong}")
    return case.result(folder), time.monotonic() - began
