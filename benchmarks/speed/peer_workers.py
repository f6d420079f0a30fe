"""Potentials measured in processes of their own: started, asked, ended. The protocol stands in peers/worker.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from equimd.benchmarks.options import HERE, peer_python
from equimd.errors import EquimdError

FOLDER = HERE / "peers"
ANSWER = "answer: "  # as in peers/worker.py
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerError(EquimdError):
    """A worker that could not do what it was asked, or died."""

    exit_code = 1


def environment(threads: int, cache: Path | None = None) -> dict[str, str]:
    """Of a process with so many threads; ``cache`` takes everything it compiles, None: the usual folders."""
    found = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    found.pop("PYTHONPATH", None)
    if cache is not None:
        found |= {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "EQUIMD_CACHE": str(cache)}
    return found


class Worker:
    """One potential in a process of its own.

    Args:
        name: ``equimd``, or a peer that is installed.
        threads: CPU threads it may use.
        log: file that takes what it prints.
        cache: takes everything compiled; None for the usual folders.
    """

    def __init__(self, name: str, threads: int, log: Path, cache: Path | None = None) -> None:
        self.name, self.log = name, log
        python = sys.executable if name == "equimd" else str(peer_python(name))
        log.parent.mkdir(parents=True, exist_ok=True)
        self._stderr = log.open("ab")
        self._process = subprocess.Popen(
            [python, str(FOLDER / f"run_{name}.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=environment(threads, cache),
        )

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            WorkerError: the worker failed or ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise WorkerError("has no pipes", where=self.name)
        try:
            self._process.stdin.write(json.dumps({"op": op, **request}) + "\n")
            self._process.stdin.flush()
            while (line := self._process.stdout.readline()) and not line.startswith(ANSWER):
                pass
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise WorkerError(f"the worker ended (exit code {code})", where=self.name, hint=f"see {self.log}")
        answer = json.loads(line.removeprefix(ANSWER))
        if "error" in answer:
            raise WorkerError(answer["error"], where=self.name, hint=f"see {self.log}")
        return answer

    def close(self) -> None:
        """End the process: politely, then not."""
        if self._process.poll() is None:
            try:
                self._process.communicate('{"op": "stop"}\n', timeout=10)
            except (subprocess.TimeoutExpired, BrokenPipeError, ValueError):
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what a dead worker was sent and has not read
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def prepared(
    tasks: Sequence[tuple[str, dict[str, Any]]], threads: int, logs: Path
) -> Iterator[tuple[dict[str, Worker], dict[str, dict[str, Any]], dict[str, str]]]:
    """Workers side by side, each with its task ready.

    Args:
        tasks: (label, task), the task naming its ``worker``.

    Yields:
        the workers by label, what preparing each gave, and what went wrong with those that are missing.
    """
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        about: dict[str, dict[str, Any]] = {}
        failed: dict[str, str] = {}
        for label, task in tasks:
            try:
                worker = stack.enter_context(Worker(task["worker"], threads, logs / f"{label}.log"))
                about[label] = worker.ask("prepare", task={**task, "threads": threads})
                workers[label] = worker
            except EquimdError as error:
                failed[label] = error.what
        yield workers, about, failed
