"""Reference methods for tests, by name as on the command line: springs, and springs that fail in every way."""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, SCFError, all_changes

from tests.training.toy import WATER, springs

MODULE = __name__
ONCE = "EQUIMD_TEST_ONCE"  # a file that says whether a process died already


class Springs(Calculator):
    """Water as three springs; some displacement of the first atom decides what goes wrong."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces = springs(self.atoms.positions, WATER)
        self.results = {"energy": energy, "forces": forces}


class Failing(Springs):
    """Fails by the first coordinate, in units of 10 Angstrom: 1 raises, 2 is not a number, 3 dies, 4 takes too long,
    5 has a fault of its own, 6 dies the first time it is asked."""

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        kind = round(float(self.atoms.positions[0, 0]) / 10.0)
        if kind == 1:
            raise SCFError("it did not converge")
        if kind == 2:
            self.results["forces"] = np.full((3, 3), np.nan)
        if kind == 3:
            os._exit(7)
        if kind == 4:
            time.sleep(60)
        if kind == 6 and not os.path.exists(os.environ[ONCE]):
            with open(os.environ[ONCE], "w"):
                os._exit(7)
        if kind == 5:
            raise ZeroDivisionError("a fault of the method's own")
