"""The commands of ``equimd``: each is one entry of one table, and imported when it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import typer

from equimd.registry import Registry


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        help: what it does, in a line.
        run: a function whose parameters are the arguments and options, an app of sub-commands, or ``"module:name"`` of
            one of these. How they are written: :mod:`equimd.cli.common`.
    """

    help: str
    run: Callable[..., None] | typer.Typer | str


COMMANDS: Registry[Command] = Registry(
    "command",
    "COMMANDS",
    {
        "data": Command("list, fetch, inspect, convert, generate and label data sets", "equimd.cli.data:app"),
        "config": Command("write a commented YAML file of all training settings", "equimd.cli.config:app"),
        "learn": Command("from a molecule and a reference method to a certified potential", "equimd.cli.learn:learn"),
        "train": Command("train a potential on energies and forces", "equimd.cli.train:train"),
        "calibrate": Command(
            "uncertainties that mean what they say, and thresholds, from held-out frames",
            "equimd.cli.calibrate:calibrate",
        ),
        "audit": Command("a certificate for a calibrated run, from fresh runs and labels", "equimd.cli.audit:audit"),
        "evaluate": Command("measure the errors of a trained potential on a data set", "equimd.cli.evaluate:evaluate"),
        "simulate": Command(
            "molecular dynamics that halts or flags frames beyond a calibrated threshold",
            "equimd.cli.simulate:simulate",
        ),
        "compare": Command(
            "two models side by side: errors, speed, conservation of energy, stability", "equimd.cli.compare:compare"
        ),
        "traj": Command("analyse, draw and convert trajectories", "equimd.cli.traj:app"),
        "report": Command("one HTML page of runs, simulations and learn runs", "equimd.cli.report:report"),
        "ipi": Command("serve energies and forces to i-PI, with the same guard", "equimd.cli.ipi:ipi"),
        "export": Command("a model for the engines of metatomic: ASE, LAMMPS and more", "equimd.cli.export:export"),
        "predict": Command("energy and forces of the structures in a file", "equimd.cli.predict:predict"),
        "doctor": Command("try what equimd needs of this machine: for reports of faults", "equimd.cli.doctor:doctor"),
        "bench": Command("benchmark suites: accuracy, speed and more, beside other packages", "equimd.cli.bench:app"),
    },
)
