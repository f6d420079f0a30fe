"""Full disks, folders that may not be written to, and two processes in one folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kills.cases import CASES, Case, new_folder
from tests.kills.harness import Ended, Trial, run

SIZES = (20, 40, 120, 400)  # kB free beside what the case reads


class NotAllowedError(Exception):
    """File systems may not be mounted here."""


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotAllowedError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _remount(folder: Path, options: str) -> None:
    if subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=False).returncode:
        raise NotAllowedError("remount")


def _refused(ended: Ended, codes: tuple[int, ...]) -> list[str]:
    wrong = [] if ended.code in codes else [f"exit code {ended.code}: {ended.said[-400:]}"]
    if "Traceback" in ended.said or "Exception ignored" in ended.said:
        wrong.append(f"a traceback: {ended.said[-800:]}")
    return wrong


def full_disk(name: str, case: Case, size: int, folder: Path) -> list[str]:
    """A disk with ``size`` kB free: done, or exit code 1 and nothing half written; then, with space, to the end."""
    with mounted(folder / "disk", "size=64m"):
        here = new_folder(case, folder / "disk" / "case")
        used = sum(-(-p.stat().st_size // 4096) + 1 for p in here.rglob("*")) * 4 + 16
        if subprocess.run(
            ["mount", "-o", f"remount,size={used + size}k", str(folder / "disk")], check=False
        ).returncode:
            raise NotAllowedError("remount")
        wrong = _refused(ended := run(case.begin, here), (0, 1, 3))
        left = [p.name for p in here.rglob("*") if p.name.endswith(".part")]
        wrong += [f"left behind: {left}"] if left else []
        shutil.copytree(here, folder / "more")
    if ended.code == 1:
        there = bool(case.mark) and (folder / "more" / case.mark).exists()
        words = case.resume if there else f"{case.begin} --overwrite" if case.mark else case.begin
        wrong += _refused(run(words, folder / "more"), (0, 3))
        case.result(folder / "more")  # is whole
    return wrong


def read_only(name: str, case: Case, folder: Path) -> list[str]:
    """A file system that may not be written to: exit code 2, and said so."""
    new_folder(case, folder / "case")
    with mounted(folder / "disk", "size=64m"):
        here = shutil.copytree(folder / "case", folder / "disk" / "case")
        _remount(folder / "disk", "ro")
        ended = run(case.begin, here)
    wrong = _refused(ended, (2,))
    return wrong if "may not be written to" in ended.said else [*wrong, f"says: {ended.said[-400:]}"]


def twice(name: str, case: Case, folder: Path) -> list[str]:
    """Two at once: one of them is refused, or both end, and what is left is whole."""
    here, found = new_folder(case, folder / "case"), list[Ended]()
    threads = [threading.Thread(target=lambda: found.append(run(case.begin, here))) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    wrong = [w for ended in found for w in _refused(ended, (0, 2, 3))]
    wrong += [] if any(e.code in (0, 3) for e in found) else ["none has ended well"]
    case.result(here)
    return wrong


def faults(names: tuple[str, ...] = ()) -> list[Trial]:
    """Every fault with every case."""
    trials = list[Trial]()

    def tried(fault: str, name: str, work: object, *more: int) -> None:
        with tempfile.TemporaryDirectory(prefix="equimd-faults-") as temporary:
            try:
                wrong = work(name, CASES[name], *more, Path(temporary))  # type: ignore[operator]
            except NotAllowedError as error:
                print(f"{fault}: not tried, {error}", file=sys.stderr)
                return
            except Exception as error:
                wrong = [f"no result: {error!r}"]
        trials.append(Trial(fault, name, more[0] if more else 0, wrong=wrong))
        print(f"{fault} {name} {more}: {wrong or 'as it should be'}", file=sys.stderr)

    for name in names or CASES:
        for size in SIZES:
            tried("full", name, full_disk, size)
        tried("readonly", name, read_only)
        tried("twice", name, twice)
    return trials
