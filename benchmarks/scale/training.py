"""One training that is watched, in a process of its own: ``python -m equimd.benchmarks.scale.training SETTINGS``.

SETTINGS is a JSON object: ``data`` (folder), ``run``, ``log``, ``began`` (seconds since 1970, of the command),
``steps`` after which it stops, ``options`` of the training. Each step adds a line to ``log``, a JSON object: ``step``,
``digest`` of the batch, ``frames`` and ``atoms`` in it, ``seconds`` since ``began`` and those spent ``compiling``,
``rss_MiB`` in memory then and ``peak_MiB`` at most until then.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimd.data.batch import Batch
from equimd.errors import Interrupted
from equimd.tasks.train import train
from equimd.training.loop import Trainer


def most_resident(process: int | str = "self") -> float:
    """MiB that a process held at most since its program began; 0 if it is gone.

    What the system counts for a process (``getrusage``) begins with the memory of the one that started it.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), default=0.0)


def resident() -> float:
    """MiB of memory that this process holds, files that are mapped into it left out."""
    pages = [int(word) for word in Path("/proc/self/statm").read_text().split()[1:3]]
    return (pages[0] - pages[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def line(step: int, batch: Batch, began: float, compiling: float) -> str:
    """What is noted of a step."""
    digest = hashlib.sha256(batch.positions.cpu().numpy().tobytes()).hexdigest()[:16]
    told = {"step": step, "digest": digest, "frames": batch.num_structures, "atoms": int(batch.n_atoms.sum())}
    memory = {"rss_MiB": resident(), "peak_MiB": most_resident()}
    return json.dumps(told | {"seconds": time.time() - began, "compiling": compiling} | memory)


def watched(settings: Mapping[str, Any]) -> None:
    """Train, or go on with a run that is there, until so many steps are taken."""
    one_step, run = Trainer._one_step, Path(settings["run"])

    def noted(trainer: Trainer, batch: Batch) -> None:
        one_step(trainer, batch)
        with Path(settings["log"]).open("a") as log:
            p = trainer.progress
            log.write(line(p.step, batch, settings["began"], p.compiling) + "\n")
        if trainer.progress.step >= settings["steps"]:
            trainer.stop()

    Trainer._one_step = noted  # type: ignore[method-assign]
    try:
        if run.is_dir():
            train(resume=run)
        else:
            train(settings["data"], out=run, **settings["options"])
    except Interrupted:
        pass
    finally:
        Trainer._one_step = one_step  # type: ignore[method-assign]


if __name__ == "__main__":
    watched(json.loads(sys.argv[1]))
