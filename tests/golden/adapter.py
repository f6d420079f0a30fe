"""The one file to change when the inside of the package moves. Its answers must not change.

All else in this folder goes through the command line, ``equimd.load``, the ASE calculator and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

import equimd
from equimd.cli.main import app as app
from equimd.data.system import System
from equimd.forces.forcefield import ForceField
from equimd.guard import judge
from equimd.guard.limits import Limits
from equimd.guard.thresholds import parse_threshold


def thresholds(run: str | Path) -> dict[str, Any]:
    """What a saved calibration says, opened."""
    c = equimd.load(run).calibration
    out: dict[str, Any] = {
        "flag": {"value": c.flag.value, "alpha": c.flag.alpha, "level": c.levels.flag},
        "error": {"multiplier": c.error.multiplier, "coverage": c.error.coverage},
        "state_point": dict(vars(c.state_point)),
        "compositions": list(c.compositions),
    }
    if c.halt is not None:
        out["halt"] = {
            "value": c.halt.value, "alpha": c.halt.alpha, "run_length": c.halt.run_length, "level": c.levels.halt
        }  # fmt: skip
    for bound in (0.05, 0.5):
        out[f"error {bound}"] = c.error_decision(bound)[1]
    return out


def calculator_rule(run: str | Path, threshold: str) -> Any:
    """The second argument of ``calculator.uncertainty(atoms, rule)`` for a threshold other than the flag one."""
    rule = equimd.load(run).calibration.choose(parse_threshold(threshold))
    return rule.decision, rule.threshold


class Judge:
    """What molecular dynamics asks of every proposed frame.

    Args:
        start: the geometry whose bonds the physical checks know.
        threshold: ``halt``, ``flag``, ``0.2eV/A`` ..., or ``off``: the physical checks alone.
        action: ``halt`` or ``flag``.
    """

    def __init__(self, run: str | Path, start: Atoms, threshold: str, action: str) -> None:
        model = equimd.load(run)
        pbc = tuple(bool(p) for p in start.pbc)
        system = System.build(start.numbers, cell=start.cell.array if any(pbc) else None, pbc=pbc)
        limits = Limits.from_reference(system, torch.from_numpy(start.positions.copy()))
        state = {"charge": int(start.info.get("charge", 0)), "spin": int(start.info.get("spin", 0))}
        rule = None if threshold == "off" else model.calibration.choose(parse_threshold(threshold))
        self.judge = judge.Judge.of(model.potential, system, rule, action, limits=limits, **state)
        self.forces = ForceField(model.potential, system, **state, judge=self.judge, compile="off")

    def __call__(self, positions: np.ndarray, spoiled: Sequence[tuple[int, str]] = ()) -> dict[str, Any]:
        """Events and scores of A frames, positions (A, n, 3).

        Args:
            spoiled: rows whose ``energy`` or ``forces`` are made NaN.
        """
        x = torch.from_numpy(np.array(positions))
        energy, forces, extras = self.forces(x)
        for row, name in spoiled:
            {"energy": energy, "forces": forces}[name][row] = torch.nan
        found = self.judge(x, energy, forces, extras)
        nothing = np.full(len(x), np.nan)
        scores = nothing if found.scores is None else found.scores.numpy()
        if found.atom_scores is None:
            atoms = np.full(positions.shape[:2], np.nan)
        else:
            atoms = found.atom_scores.numpy()
        return {"events": [vars(e) for e in found.events], "scores": scores, "atom_scores": atoms}
