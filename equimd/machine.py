"""What the machine has: the device to compute on, a compiler, threads."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from equimd.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")


def choose_device(name: str) -> torch.device:
    """The device of ``--device``; ``auto`` is the first GPU there is, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}'", where="--device", hint="cpu, cuda, cuda:1 or auto") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"there is no device '{name}' here", where="--device", hint="--device cpu")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported", where="--device", hint="cpu or cuda")
    return device


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_compiler() -> bool:
    """Whether a C++ compiler that torch.compile could use is on this machine."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``[function(x) for x in items]``, one on each of torch's threads: for work so small that more gain nothing.

    Results do not depend on the number of threads. Modes such as ``torch.no_grad`` are a thread's own: ``function``
    sets those it needs.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        return [function(x) for x in items]
    return list(_pool(threads).map(function, items))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads on each of which torch has one."""
    everywhere = threading.Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # the first call in a thread sets them to what all of torch was told last
        torch.set_num_threads(1)
        everywhere.wait()

    pool = ThreadPoolExecutor(threads, "block", alone)
    for _ in range(threads):
        pool.submit(int)
    everywhere.wait()
    torch.set_num_threads(threads)  # torch remembers the last number that any thread set
    return pool
