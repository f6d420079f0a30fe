"""A run with everything in it (noise, flags, a replica that halts), and a process that is killed while it makes it.

As a program, ``python -m tests.md.runs FOLDER ENSEMBLE``: starts the run, is killed with SIGKILL at each of ``KILLS``
in turn, goes on every time, and finishes it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.md import trajectory
from equimd.md.integrators import Integrator, Langevin, NoseHoover
from equimd.md.simulation import Output, Simulation
from equimd.md.state import maxwell_boltzmann
from tests.forces.compiled import molecule as molecule_of

STEPS, BLOCK, SAVE_EVERY = 240, 5, 3
#: (what, which occurrence in that session): in the middle of steps, and around each operation on the files.
KILLS = (("step", 2), ("step", 61), ("replace", 1), ("append", 2), ("replace", 4), ("replace", 6), ("step", 40))


def integrator(name: str) -> Integrator:
    """Compiled forces come with Langevin dynamics."""
    return NoseHoover(0.5, 400.0, 12) if name == "nose-hoover" else Langevin(0.5, 400.0, 0.02, seed=11)


def bond_length(x: torch.Tensor, extras: object) -> tuple[torch.Tensor, torch.Tensor]:
    """A score of frames and of atoms."""
    return (x[:, 0] - x[:, 1]).norm(dim=-1), x[..., 0]


def make(folder: Path, name: str) -> Simulation:
    """The run in ``folder``: begun, or gone on with where there is something to go on with."""
    molecule = molecule_of(name)
    limits = Limits.from_reference(molecule.system, molecule.reference)
    judge = Judge(limits, bond_length, 1.45, "flag", name="bond length", unit="A")
    output = Output(folder, SAVE_EVERY)
    common = {"dof": 12, "judge": judge, "output": output}
    if (folder / "restart.safetensors").exists():
        return Simulation.resume(molecule.system, integrator(name), molecule, **common)
    for left in folder.glob("*"):
        left.unlink()
    x = molecule.reference.expand(3, -1, -1).clone()
    v = maxwell_boltzmann(molecule.system, x, 400.0, seed=11, replicas=range(3), bath=False)
    v[2, 2] *= 30.0  # this one loses a hydrogen atom
    return Simulation.start(molecule.system, integrator(name), molecule, x, v, **common)


def kill_at(count: int) -> Callable[..., None]:
    """A function that kills the process when it is called the count-th time."""
    left = [count]

    def tick(*args: object) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    return tick


def killed_session(folder: Path, name: str, what: str, count: int) -> None:
    tick = kill_at(count)

    def before(function: Callable) -> Callable:
        def wrapped(*args: object, **more: object) -> object:
            tick()
            return function(*args, **more)

        return wrapped

    if what == "replace":
        os.replace = before(os.replace)
    if what == "append":
        trajectory._append = before(trajectory._append)
    make(folder, name).run(STEPS, observer=tick if what == "step" else None)


def main(folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    trajectory.BLOCK = BLOCK
    # a session of compiled forces takes seconds to begin: two kills, between steps and around a file
    for what, count in KILLS[1::3] if name == "compiled" else KILLS:
        child = os.fork()
        if not child:
            try:
                killed_session(folder, name, what, count)
            except Exception:
                traceback.print_exc()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"the session to be killed at {what} {count} ended by itself")
        for path in trajectory.trajectory_files(folder):
            trajectory.read(path)  # it opens after every kill
    make(folder, name).run(STEPS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
