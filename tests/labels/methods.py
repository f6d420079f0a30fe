"""Reference methods for tests, by name as on the command line: springs, and springs that fail in every way."""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, SCFError, all_changes

from tests.training.toy import WATER, springs

MODULE = __name__
CALLS = "EQUIMD_TEST_CALLS"  # a file that every call adds a line to


class Springs(Calculator):
    """Water as three springs; some displacement of the first atom decides what goes wrong."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        if os.environ.get(CALLS):
            with open(os.environ[CALLS], "a") as file:
                file.write("call\n")
        energy, forces = springs(self.atoms.positions, WATER)
        self.results = {"energy": energy, "forces": forces}


class Failing(Springs):
    """Fails by the first coordinate, in units of 10 Angstrom: 1 raises, 2 is not a number, 3 dies, 4 takes too long."""

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
        if kind == 5:
            raise ZeroDivisionError("a fault of the method's own")
