"""The guard of the ASE calculator: what it computed is judged before the caller gets it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from ase import Atoms

from equimd.data.system import System
from equimd.errors import ConfigError, GuardError, ModelError
from equimd.guard.asked import parse_threshold, resolve
from equimd.guard.judge import Action, Event, ScoreRule, physical_decision
from equimd.guard.limits import Limits
from equimd.guard.score import SCORE_NAME, SCORE_UNIT

if TYPE_CHECKING:
    from equimd.calculators.ase import EquimdCalculator

OnExceed = Literal["ignore", "warn", "raise"]
GAP = 200  # structures between two events; closer ones are one and the same
HINT = (
    "the frame is `structure` of this error, the last good positions are `last_accepted`; label such frames "
    "(`equimd data label`) and train on from the model (`equimd train --init`)"
)


class CalculatorGuard:
    """Judges each structure that a calculator computed: physical checks, then the calibrated decision.

    The physical checks (numbers that are not finite, atoms fused, molecules apart) know the first structure of each
    composition and cell; the calibrated decision is that of molecular dynamics.

    Args:
        calculator: of a model with forces.
        on_exceed: ``warn``, or ``raise`` :class:`~equimd.errors.GuardError`.
        threshold: ``auto`` (the calibrated halt threshold, else the flag threshold), ``flag``, ``halt``, a bound on
            the force error (0.15, or ``0.15eV/A``), or ``off`` for the physical checks alone.
        tell: what is told of each event with ``warn``: a Python warning by default.

    Raises:
        ConfigError: not a threshold, or another ``on_exceed``.
        ModelError: a model trained on energies alone.
        UncertaintyError: the run is not calibrated (for this).

    Attributes:
        count: structures judged. exceeded: how many of them were not to be taken as true. events: of these, those that
            did not follow closely on another one.
    """

    def __init__(
        self,
        calculator: EquimdCalculator,
        on_exceed: OnExceed,
        threshold: str | float = "auto",
        tell: Callable[[GuardError], None] | None = None,
    ) -> None:
        if on_exceed not in ("warn", "raise"):
            raise ConfigError(f"on_exceed '{on_exceed}'", hint="ignore, warn or raise")
        if not calculator.model.has_forces:
            raise ModelError("the model was trained on energies alone: its forces cannot be judged")
        self.calculator, self.on_exceed, self.tell = calculator, on_exceed, tell or _warn
        mode = parse_threshold(f"{threshold}", "threshold")
        if mode != "off" and calculator.wanted is False:
            raise ConfigError("a threshold without uncertainties", hint="leave out uncertainty=False")
        self.rule = None if mode == "off" else resolve(calculator.model.calibration, mode)[1:]
        self.count = self.exceeded = self.events = 0
        self._last = -math.inf
        self._limits: Limits | None = None
        self._constants: tuple[bytes, ...] = ()
        self._accepted: np.ndarray | None = None

    @property
    def threshold(self) -> float | None:
        """On the force sigma, eV/Angstrom; None with ``off``."""
        return None if self.rule is None else self.rule[1]

    def judge(self, atoms: Atoms, constants: tuple[bytes, ...]) -> None:
        """Judge ``atoms``, the last structure computed.

        Args:
            constants: what tells another molecule or cell from the same one moved.

        Raises:
            GuardError: they are not to be taken as true, with ``on_exceed="raise"``.
        """
        if constants != self._constants:
            self._limits, self._constants, self._accepted = _limits(atoms), constants, None
        self.count += 1
        event, sigma = self._physical(), None
        if event is None and self.rule is not None:
            event, sigma = self._scored(atoms)
        if event is None:
            self._accepted = atoms.positions.copy()
            return
        self.exceeded += 1
        new, self._last = self.count - self._last >= GAP, self.count
        self.events += new
        if self.on_exceed == "raise" or new:
            error = self._error(event, atoms, sigma)
            if self.on_exceed == "raise":
                raise error
            self.tell(error)

    def _physical(self) -> Event | None:
        results, positions = self.calculator.results, self.calculator.current_positions
        if self._limits is None:
            return None
        found = physical_decision(
            self._limits,
            torch.from_numpy(positions)[None],
            torch.tensor([results["energy"]], dtype=torch.float64),
            torch.from_numpy(results["forces"])[None],
        )
        return found.events[0] if found.events else None

    def _scored(self, atoms: Atoms) -> tuple[Event | None, np.ndarray | None]:
        step = self.calculator.uncertainty(atoms, self.rule)
        sigma = step.atom_forces_std
        scores = torch.tensor([step.score], dtype=torch.float64)
        per_atom = torch.full((1, len(atoms)), torch.nan) if sigma is None else torch.from_numpy(sigma)[None]
        action: Action = "halt" if self.on_exceed == "raise" else "flag"
        rule = ScoreRule(lambda *_: (scores, per_atom), step.threshold, action, SCORE_NAME, SCORE_UNIT)
        found = rule.decide(torch.from_numpy(atoms.positions)[None], {})
        return (found.events[0] if found.events else None), sigma

    def _error(self, event: Event, atoms: Atoms, sigma: np.ndarray | None) -> GuardError:
        named = ", ".join(f"{atoms.symbols[k]}{k}" for k in event.atoms[:5]) + (" ..." if len(event.atoms) > 5 else "")
        structure = atoms.copy()
        structure.info = {
            **atoms.info, "reason": event.reason, "code": event.code, "score": event.score,
            "threshold": event.threshold,
        }  # fmt: skip
        structure.arrays["atom_score"] = np.full(len(atoms), np.nan) if sigma is None else np.array(sigma)
        structure.arrays["responsible"] = np.isin(np.arange(len(atoms)), event.atoms).astype(int)
        error = GuardError(
            event.reason + (f" (atoms {named})" if named else ""),
            where=f"structure {self.count} of the calculator",
            hint=HINT,
            code=event.code,
            atoms=event.atoms,
            score=event.score,
            threshold=event.threshold,
        )
        error.structure, error.last_accepted = structure, self._accepted
        return error


def _warn(error: GuardError) -> None:
    warnings.warn(f"{error.where}: {error.what}", stacklevel=6)


def _limits(atoms: Atoms) -> Limits:
    pbc: Any = tuple(bool(p) for p in atoms.pbc)
    system = System.build(atoms.numbers, cell=atoms.cell.array if any(pbc) else None, pbc=pbc)
    return Limits.from_reference(system, torch.from_numpy(atoms.positions.copy()))
