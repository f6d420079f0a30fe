"""The guard of the ASE calculator: what the judge says of a computed structure, before the caller gets it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from ase import Atoms
from torch import Tensor

from equimd.calculators.predictor import Predictor, Wanted
from equimd.errors import ConfigError, GuardError, ModelError
from equimd.guard.judge import Action, Decision, Event
from equimd.guard.score import SCORE_NAME, Rule
from equimd.guard.thresholds import parse_threshold

OnExceed = Literal["ignore", "flag", "halt"]
RENAMED = {"warn": "flag", "raise": "halt"}
GAP = 200  # structures between two events; closer ones are one and the same
HINT = (
    "the frame is `structure` of this error, the last good positions are `last_accepted`; label such frames "
    "(`equimd data label`) and train on from the model (`equimd train --init`)"
)


def chosen_rule(model: Predictor, threshold: str | float) -> Rule | None:
    """What structures are judged by; None with ``off``. For what is raised see :class:`CalculatorGuard`."""
    if not model.has_forces:
        raise ModelError("the model was trained on energies alone: its forces cannot be judged")
    mode = parse_threshold(f"{threshold}", "threshold")
    return None if mode == "off" else model.calibration.choose(mode)


class CalculatorGuard:
    """Acts on what a judge says of each structure that a calculator computed.

    The physical checks (numbers that are not finite, atoms fused, molecules apart) know the first structure of each
    composition and cell, and keep to it while the cell changes by less than a tenth from one structure to the next; the
    calibrated decision is that of molecular dynamics.

    Args:
        model: with forces.
        on_exceed: ``flag``, which tells of each event, or ``halt``, which raises :class:`~equimd.errors.GuardError`.
        threshold: ``auto`` (the calibrated halt threshold, and below it the flag threshold, above which structures are
            told of, too), ``flag``, ``halt``, a bound on the force error (0.15, or ``0.15eV/A``), or ``off`` for the
            physical checks alone.

    Raises:
        ConfigError: not a threshold, or another ``on_exceed``.
        ModelError: a model trained on energies alone.
        UncertaintyError: the run is not calibrated (for this).

    Attributes:
        rule: what is compared with what; None with ``off``. threshold: of it, eV/Angstrom.
        count: structures judged. exceeded: how many of them were not to be taken as true, or flagged. events: of these,
            those that did not follow closely on another one.
        last_accepted: (n, 3) Angstrom, the last positions of this molecule that passed, or were flagged on the way to a
            halt.
        tell: what is told of each event that does not halt: a Python warning by default.
    """

    def __init__(
        self, model: Predictor, on_exceed: OnExceed, threshold: str | float = "auto", *, uncertainty: Wanted = "auto"
    ) -> None:
        if on_exceed not in ("flag", "halt"):
            renamed = f"'{RENAMED[on_exceed]}', as it is called now" if on_exceed in RENAMED else "ignore, flag or halt"
            raise ConfigError(f"on_exceed '{on_exceed}'", hint=renamed)
        self.rule = chosen_rule(model, threshold)
        self.threshold = None if self.rule is None else self.rule.threshold
        if self.threshold is not None and uncertainty is False:
            raise ConfigError("a threshold without uncertainties", hint="leave out uncertainty=False")
        self.on_exceed: Action = on_exceed
        self.tell: Callable[[GuardError], None] = _warn
        self.count = self.exceeded = self.events = 0
        self.last_accepted: np.ndarray | None = None
        self._last = -math.inf

    def act(self, decision: Decision, atoms: Atoms, step: int | None = None) -> None:
        """Act on what the judge decided about ``atoms``, in a step of the program that moves them, if it tells which.

        Raises:
            GuardError: they are not to be taken as true, with ``on_exceed="halt"``.
        """
        self.count += 1
        halts = self.on_exceed == "halt" and bool(decision.halts)
        if not decision.events or (self.on_exceed == "halt" and not halts):
            self.last_accepted = atoms.positions.copy()
        if not decision.events:
            return
        self.exceeded += 1
        new, self._last = self.count - self._last >= GAP, self.count
        self.events += new
        if halts or new:
            error = self._error(decision.events[0], atoms, decision.atom_scores, step)
            if halts:
                raise error
            self.tell(error)

    def _error(self, event: Event, atoms: Atoms, scores: Tensor | None, step: int | None) -> GuardError:
        named = ", ".join(f"{atoms.symbols[k]}{k}" for k in event.atoms[:5]) + (" ..." if len(event.atoms) > 5 else "")
        structure = atoms.copy()
        structure.info = {
            **atoms.info, "reason": event.reason, "code": event.code, "score": event.score,
            "threshold": event.threshold,
        }  # fmt: skip
        if step is not None:
            structure.info["step"] = step
        known = np.full(len(atoms), np.nan) if scores is None or event.code != SCORE_NAME else scores[0].numpy().copy()
        structure.arrays["atom_score"] = known
        structure.arrays["responsible"] = np.isin(np.arange(len(atoms)), event.atoms).astype(int)
        error = GuardError(
            event.reason + (f" (atoms {named})" if named else ""),
            where=f"structure {self.count} of the calculator" if step is None else f"step {step}",
            hint=HINT,
            code=event.code,
            atoms=event.atoms,
            score=event.score,
            threshold=event.threshold,
        )
        error.structure, error.last_accepted, error.step = structure, self.last_accepted, step
        return error


def _warn(error: GuardError) -> None:
    warnings.warn(f"{error.where}: {error.what}", stacklevel=5)
