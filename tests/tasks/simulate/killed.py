"""A simulation that is killed with SIGKILL at random moments and goes on each time; and the same one left alone.

As a program: ``python -m tests.tasks.simulate.killed RUN MOLECULE FOLDER`` makes FOLDER/whole and FOLDER/killed.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from equimd.md import trajectory
from equimd.md.simulation import Simulation
from equimd.tasks.simulate import session
from equimd.tasks.simulate import task as workflow
from equimd.tasks.simulate.settings import parse_settings

EQUILIBRATION, STEPS, KILLS = 40, 200, 5


def settings(run: Path, molecule: Path) -> dict:
    watch = {"uq_threshold": "0.28eV/A", "on_exceed": "flag", "temperature": 600, "replicas": 2}
    length = {"steps": STEPS, "equilibrate": EQUILIBRATION * 0.5 / 1000, "save_every": 3}
    return {"run": str(run), "structure": str(molecule), **watch, **length}


def simulate(run: Path, molecule: Path, folder: Path, step: mmap.mmap | None = None) -> None:
    """Begin, or go on with what is there; tells the parent its steps."""
    if (folder / session.START_FILE).exists():
        ready = session.reopen(folder, {})

        def start() -> Simulation:
            return session.resume(ready, folder)
    else:
        ready = session.prepare(parse_settings(settings(run, molecule)))
        for left in folder.glob("*"):
            left.unlink()

        def start() -> Simulation:
            return session.begin(ready, folder)

    if step is None:
        workflow.execute(ready, start, folder)
        return

    def tell(simulation: Simulation) -> None:
        step[:8] = (simulation.state.step + EQUILIBRATION).to_bytes(8, "little")

    start().run(STEPS, observer=tell)


def main(run: Path, molecule: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    trajectory.BLOCK = 4
    simulate(run, molecule, folder / "whole")
    killed, seed = folder / "killed", int.from_bytes(os.urandom(4), "little")
    print("seed", seed)
    rng, step = random.Random(seed), mmap.mmap(-1, 8)
    moments = sorted(rng.uniform(0, 0.95 * (EQUILIBRATION + STEPS)) for _ in range(KILLS))
    for moment in moments:
        step[:8] = bytes(8)
        child = os.fork()
        if not child:
            try:
                simulate(run, molecule, killed, step)
            except Exception:
                traceback.print_exc()
            os._exit(0)
        while int.from_bytes(step[:8], "little") < moment and not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit("a session to be killed ended by itself")
        for path in trajectory.trajectory_files(killed):
            trajectory.read(path)  # it opens after every kill
    simulate(run, molecule, killed)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
