"""Worker processes of one thread each, for reference methods on small molecules."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from equimd.interrupts import leave_to_parent, unreached

Key = TypeVar("Key")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started meanwhile use one thread each: more only slow small molecules down."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """So many processes, started as they are needed; all of them are ended when an exception is raised."""
    spawning, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with unreached():
        pass  # the account of multiprocessing's resources; the pool's own processes start as they are needed
    with one_thread(), ProcessPoolExecutor(count, spawning, leave_to_parent) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.kill()  # what it is at may take long, and is made again
            raise


def run_all(
    pool: Executor | None,
    function: Callable[..., Result],
    tasks: Mapping[Key, tuple[Any, ...]],
    finished: Callable[[Key, Result], None],
) -> None:
    """``finished(key, function(*arguments))`` for every task, as they end; without a pool one after the other, here.

    Whatever is raised, here or in a process, ends it.

    Args:
        function: importable by name from its module; so are its arguments' types.
    """
    if pool is None:
        for key, arguments in tasks.items():
            finished(key, function(*arguments))
        return
    waiting = {pool.submit(function, *arguments): key for key, arguments in tasks.items()}
    for future in as_completed(waiting):
        finished(waiting[future], future.result())
