"""Makes the golden record anew: ``python -m tests.golden.record [--only NAME ...] [--saved]``.

The record is what the tree answered before it was rearranged. It is made anew only by a change that means to answer
otherwise: run it for the parts that change (``--only evaluate``), look at the difference in git line by line, and say
in CHANGELOG what changed for the user. ``tests/golden/test_golden.py`` runs the same code and compares.

``--saved`` makes the saved runs anew, too, and everything after them. Leave that alone: that runs, calibrations and
simulations of an earlier tree still open and go on is what the record is for.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.golden import commands, compare, models
from tests.golden.compare import Tolerance
from tests.golden.saved import RUNS, SAVED, make
from tests.golden.shell import quick_layers


@dataclass(frozen=True)
class Part:
    """Something that is recorded: how it is made in a copy of ``saved/``, and how closely it is compared."""

    make: Callable[[Path], Any]
    near: Tolerance


#: Of float64 models, and of what float32 models answer: of their own scale, and of energies of some eV in the network.
DOUBLE, SINGLE = Tolerance(1e-6), Tolerance(1e-5, 1e-6)
#: Of float32 models in dynamics, which adds up, and of the sigmas of nearly singular covariances.
SINGLE_STEPS = Tolerance(1e-4, 1e-6)
#: Of commands, some of them of float32 models, whose tables hold differences of such numbers.
COMMANDS = Tolerance(1e-4, 1e-6)
#: Fits to what a float32 model says, by searches that end where rounding lets them.
FITTED = Tolerance(5e-2, 1e-2)
#: Trained anew, a few steps of AdamW: it divides by the root of the gradient's square, so that of a gradient that is
#: rounding alone the sign decides, and weights differ by a part of the learning rate from one CPU to another.
TRAINED = Tolerance(2e-2, 1e-3)
FLOAT64 = ("conservative", "periodic", "energy-only")
SCENARIOS = {"train": TRAINED, "train-resume": TRAINED, "calibrate-float32": FITTED}


def _parts() -> dict[str, Part]:
    parts = {}
    for run in RUNS:
        double = run in FLOAT64
        parts[f"predictions-{run}"] = Part(partial(models.predictions, run), DOUBLE if double else SINGLE)
        if run != "energy-only":
            near = DOUBLE if double else SINGLE_STEPS
            parts[f"guarded-{run}"] = Part(partial(models.guarded, run), near)
            parts[f"decisions-{run}"] = Part(partial(models.decisions, run), near)
    for name in commands.DYNAMICS:
        near = DOUBLE if name.removeprefix("dynamics-") in FLOAT64 else SINGLE_STEPS
        parts[name] = Part(partial(commands.scenario, name), near)
    for name in commands.SCENARIOS:
        parts[name] = Part(partial(commands.scenario, name), SCENARIOS.get(name, COMMANDS))
    parts["options"] = Part(commands.options, COMMANDS)
    return parts


PARTS = _parts()


def produce(name: str, folder: Path) -> Any:
    """The values of a part, computed by this tree in ``folder``, which is empty."""
    shutil.copytree(SAVED, folder, dirs_exist_ok=True)
    before = torch.get_num_threads()
    try:
        with quick_layers():
            return compare.settled(PARTS[name].make(folder))
    finally:
        torch.set_num_threads(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=sorted(PARTS), help="parts to make anew; default: all")
    parser.add_argument("--saved", action="store_true", help="make the saved runs anew, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.saved:
        shutil.rmtree(SAVED, ignore_errors=True)
        SAVED.mkdir()
        make(SAVED)
    judged = 0
    for name in given.only or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            found = produce(name, Path(folder))
        if name.startswith("decisions-"):
            models.check_margins(found)
            judged += models.count_decisions(found)
        compare.save(name, found)
        print(f"{name} recorded")
    print(f"{judged} decisions")


if __name__ == "__main__":
    main()
