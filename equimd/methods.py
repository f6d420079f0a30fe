"""Reference methods: what computes the energies and forces that `generate` and `label` write.

A method is named by a string: ``tblite`` (GFN2-xTB; also ``gfn2``, ``gfn1``), ``emt`` (ASE's toy potential for metals),
or ``module:Class`` for any ASE calculator that can be made without arguments.
"""

from __future__ import annotations

import importlib
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from equimd.errors import ConfigError, DataError
from equimd.units import BOHR, HARTREE
from equimd.workers import one_thread

if TYPE_CHECKING:
    from ase import Atoms

_XTB = {"tblite": "GFN2-xTB", "gfn2": "GFN2-xTB", "gfn2-xtb": "GFN2-xTB", "gfn1": "GFN1-xTB", "gfn1-xtb": "GFN1-xTB"}


class Method(Protocol):
    """One structure's elements, cell and electronic state are fixed; only the positions change."""

    theory: str

    def propagate(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy (eV) and forces (eV/A) for a step of MD or relaxation: fast, may reuse the last call's solution."""
        ...

    def label(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and forces as they are written: a function of the positions alone."""
        ...


class XtbMethod:
    """GFN-xTB by tblite (Bannwarth, Ehlert, Grimme, JCTC 15, 1652 (2019)).

    Labels are computed from a fresh guess with SCF thresholds a hundred times tighter than the default, so that
    the same geometry gets the same label whatever was computed before it.
    """

    def __init__(self, atoms: Atoms, hamiltonian: str, charge: int, spin: int) -> None:
        make = _tblite()
        self.theory = hamiltonian
        periodic = bool(np.any(atoms.pbc))
        try:
            self._calc = make(
                hamiltonian,
                atoms.numbers,
                atoms.positions / BOHR,
                charge=float(charge),
                uhf=max(spin - 1, 0) if spin else int(atoms.numbers.sum() - charge) % 2,
                lattice=np.asarray(atoms.cell) / BOHR if periodic else None,
                periodic=np.asarray(atoms.pbc) if periodic else None,
            )
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{hamiltonian} cannot treat this structure: {error}", where=str(atoms.symbols)) from error
        self._calc.set("verbosity", 0)
        self._last: Any = None

    def propagate(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        return self._run(positions, self._last, accuracy=10.0)  # forces to about 1 meV/A, a quarter less time

    def label(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        return self._run(positions, None, accuracy=0.01)

    def _run(self, positions: np.ndarray, start: Any, accuracy: float) -> tuple[float, np.ndarray]:
        self._calc.set("accuracy", accuracy)
        try:
            self._calc.update(positions / BOHR)
            result = self._calc.singlepoint(start)
        except RuntimeError as error:
            self._last = None
            raise DataError(
                f"{self.theory} did not converge: {error}", hint="look at the geometry for clashing atoms"
            ) from error
        self._last = result
        return float(result.get("energy")) * HARTREE, -result.get("gradient") * (HARTREE / BOHR)


def _tblite() -> Any:
    try:
        # OpenMP reads its number of threads when tblite is loaded: more than one slow small molecules down
        with nullcontext() if "OMP_NUM_THREADS" in os.environ else one_thread():
            from tblite.interface import Calculator
    except ImportError as error:
        raise ConfigError(
            "GFN-xTB needs tblite, which is not installed",
            hint="pip install 'equimd[label]', or another --calculator",
        ) from error
    return Calculator


class AseMethod:
    """Any ASE calculator."""

    def __init__(self, atoms: Atoms, calculator: Any) -> None:
        self.theory = str(getattr(calculator, "name", None) or type(calculator).__name__)
        self._atoms = atoms.copy()
        self._atoms.set_constraint()
        self._atoms.calc = calculator

    def propagate(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        self._atoms.set_positions(positions)
        try:
            forces = np.array(self._atoms.get_forces(), dtype=np.float64)
            energy = float(self._atoms.get_potential_energy())
        except Exception as error:  # whatever the calculator, or the program it starts, runs into
            reason = f"{type(error).__name__}: {_first_line(error)}"
            raise DataError(f"{self.theory} cannot compute {self._atoms.symbols}: {reason}") from error
        if forces.shape != positions.shape:
            raise DataError(f"{self.theory} gives forces of shape {forces.shape} for {len(positions)} atoms")
        return energy, forces

    label = propagate


def theory_of(name: str) -> str | None:
    """What files call the method ``name``; None for one that is not built in."""
    return _XTB.get(name.strip().lower())


def make_method(name: str, atoms: Atoms, charge: int = 0, spin: int = 0) -> Method:
    """The method ``name`` for structures like ``atoms``. ``spin`` is the multiplicity, 0 for the lowest possible.

    Raises:
        ConfigError: no such method, or a package it needs is not installed.
    """
    key = name.strip()
    if key.lower() in _XTB:
        return XtbMethod(atoms, _XTB[key.lower()], charge, spin)
    if charge or spin > 1:
        atoms = atoms.copy()
        atoms.info.update(charge=charge, spin=spin)
    return AseMethod(atoms, _ase_calculator(key))


def check_method(name: str, option: str = "--calculator") -> None:
    """Whether the method ``name`` can be made at all, before any structure is read or computed.

    Args:
        option: that names it, for messages.

    Raises:
        ConfigError: no such method, not a calculator of ASE's, or one that lacks its program or its arguments.
    """
    key = name.strip()
    try:
        _tblite() if key.lower() in _XTB else _ase_calculator(key)
    except ConfigError as error:
        raise ConfigError(error.what, where=option, hint=error.hint) from error


_HINT = "tblite, gfn1, emt, or module:Class for an ASE calculator that can be made without arguments"


def _ase_calculator(name: str) -> Any:
    """The calculator that ``emt`` or ``module:Class`` names. Nothing but a Calculator class is called."""
    from ase.calculators.calculator import BaseCalculator

    found = _named("ase.calculators.emt:EMT" if name.lower() == "emt" else name)
    if isinstance(found, BaseCalculator):
        return found
    if not (isinstance(found, type) and issubclass(found, BaseCalculator)):
        what = f"a class, {found.__module__}.{found.__qualname__}" if isinstance(found, type) else type(found).__name__
        raise ConfigError(f"'{name}' is no ASE calculator class but {what}", where="--calculator", hint=_HINT)
    try:
        return found()
    except (Exception, SystemExit) as error:  # a missing program or argument, in the calculator's own words
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise ConfigError(
            f"'{name}' cannot be made without arguments ({reason})",
            where="--calculator",
            hint="install or configure what it names, or write a class that needs no arguments",
        ) from error


def _named(name: str) -> Any:
    """What ``module:attribute`` names, imported."""
    module, colon, attribute = name.partition(":")
    if not (colon and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ConfigError(f"unknown calculator '{name}'", where="--calculator", hint=_HINT)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # importing a module runs it
        raise ConfigError(
            f"cannot import calculator '{name}': {_first_line(error)}", where="--calculator", hint=_HINT
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no reason given"
