"""What --calculator may name: a class of ASE's that can be made, checked before any frame; nothing else is called."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.errors import ConfigError, DataError
from equimd.methods import check_method, make_method
from equimd.tasks.label.task import label

CALLED: list[str] = []


class Made:
    """Not a calculator: calling it is what must not happen."""

    def __init__(self) -> None:
        CALLED.append("made")


class Needs(Calculator):
    """Needs a program, or an argument."""

    def __init__(self) -> None:
        raise OSError("the program 'orca' is not installed\nmore lines")


class Fails(EMT):
    """Made, but its program is missing when it is used."""

    def calculate(self, *args: object, **options: object) -> None:
        raise FileNotFoundError("no such program: vasp_std")


class Short(Calculator):
    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def calculate(self, *args: object, **options: object) -> None:
        self.results = {"energy": 0.0, "forces": np.zeros((1, 3))}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("made_up")
    for each in (Made, Needs, Fails, Short):
        setattr(module, each.__name__, each)
    module.function = lambda: CALLED.append("called")  # type: ignore[attr-defined]
    module.instance = EMT()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up", module)
    (tmp_path / "that_exits.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "that_fails.py").write_text("raise AssertionError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    CALLED.clear()


@pytest.mark.parametrize(
    "name",
    ["os:system", "os:getcwd", ":", "..:x", ".:x", "a:", ":a", "a b:c", "os.:x", "ase:Atoms", "sys:exit", "", "tblite2",
     "os:nothing", "nowhere:Thing", "made_up:Made", "made_up:function", "made_up:Needs", "that_exits:X", "that_fails:X",
     "ase.calculators.calculator:Calculator.calculate", "ase.calculators.singlepoint:SinglePointCalculator", "a\0b:c",
     "__main__:x", "made_up:__class__", "ä:ö"],
)  # fmt: skip
def test_what_is_no_calculator_is_refused_before_any_work(package: None, tmp_path: Path, name: str) -> None:
    data = ArrayDataset(Frames.build(np.array([13, 13]), np.array([[[0, 0, 0], [0, 0, 2.8]]])))
    with pytest.raises(ConfigError, match="calculator|class") as caught:
        check_method(name)
    assert caught.value.exit_code == 2 and "\n" not in caught.value.what and not CALLED
    with pytest.raises(ConfigError):
        label(data, tmp_path / "o.h5", calculator=name, keep_going=True)
    assert not (tmp_path / "o.h5.parts").exists() and not CALLED


def test_the_reason_is_the_calculators_own(package: None) -> None:
    with pytest.raises(ConfigError, match=r"OSError: the program 'orca' is not installed\)"):
        check_method("made_up:Needs")
    with pytest.raises(ConfigError, match=r"no ASE calculator class but a class, ase\.atoms\.Atoms"):
        check_method("ase:Atoms")
    atoms = Atoms("Al2", [[0, 0, 0], [0, 0, 2.8]])
    with pytest.raises(DataError, match="cannot compute Al2: FileNotFoundError: no such program: vasp_std"):
        make_method("made_up:Fails", atoms).label(atoms.positions)
    with pytest.raises(DataError, match=r"forces of shape \(1, 3\) for 2 atoms"):
        make_method("made_up:Short", atoms).label(atoms.positions)


@pytest.mark.parametrize("name", ["emt", " EMT ", "ase.calculators.emt:EMT", "made_up:instance", "tblite", "gfn1"])
def test_calculators_are_found(package: None, name: str) -> None:
    check_method(name)
