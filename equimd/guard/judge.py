"""Which proposed frames may be taken as true: physical checks, and a calibrated score.

Physical checks know the reference geometry. A frame is refused when numbers are not finite, when two atoms come closer
than ``CLOSE`` times the sum of their covalent radii (fusing), or when a molecule falls apart: its atoms no longer hang
together by contacts of less than ``FAR`` times the sum of the radii. Bonds may break and form, as long as nothing flies
away; the molecules of a cluster may part.

What the reference geometry allows is in :mod:`equimd.guard.limits`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from equimd.errors import ConfigError
from equimd.guard.limits import CLOSE, FAR, Limits, components, squared_distances

Action = Literal["halt", "flag"]


class Proposed(Protocol):
    """What is judged: A frames that somebody's dynamics proposes, such as :class:`equimd.md.state.State`."""

    @property
    def positions(self) -> Tensor: ...
    @property
    def forces(self) -> Tensor: ...
    @property
    def energy(self) -> Tensor: ...
    @property
    def extras(self) -> Mapping[str, Tensor]: ...
    @property
    def replicas(self) -> tuple[int, ...]: ...
    @property
    def step(self) -> int: ...


@dataclass(frozen=True)
class Event:
    """Why one replica was halted or flagged.

    Attributes:
        row: which row of the positions that were judged.
        reason: one sentence part, such as ``atoms 3 and 7 are 0.21 Angstrom apart``.
        code: ``not-finite``, ``fused``, ``apart`` or the name of the score.
        score, threshold: what was compared; NaN for numbers that are not finite.
        atoms: indices of those responsible.
    """

    row: int
    action: Action
    code: str
    reason: str
    score: float
    threshold: float
    atoms: tuple[int, ...]


@dataclass(frozen=True)
class Decision:
    """What may be done with A proposed frames.

    Attributes:
        events: at most one a replica, the most serious; none where all is well.
        scores: (A,) values of the calibrated score; None without one.
        atom_scores: (A, n) the same per atom; None where the score has none.
    """

    events: tuple[Event, ...] = ()
    scores: Tensor | None = None
    atom_scores: Tensor | None = None

    @property
    def halts(self) -> tuple[Event, ...]:
        return tuple(e for e in self.events if e.action == "halt")

    def accept(self, count: int) -> Tensor | None:
        """(count,) bool, False for replicas to halt; None if all go on."""
        halted = [e.row for e in self.halts]
        if not halted:
            return None
        keep = torch.ones(count, dtype=torch.bool)
        keep[halted] = False
        return keep


#: Nothing to say, of frames without a score.
NOTHING = Decision()


def physical_decision(
    limits: Limits, positions: Tensor, energy: Tensor, forces: Tensor, sound: Tensor | None = None
) -> Decision:
    """The physical checks on A frames: positions and forces (A, n, 3), energy (A,).

    Args:
        sound: (A,) bool, frames the force function found to be well within the same limits; if all are, that is all.
    """
    if sound is not None and all(sound.tolist()):
        return NOTHING
    squared = squared_distances(limits, positions)
    well = (squared >= limits.bounds[0]) & (squared < limits.bounds[1])
    # one number carries every NaN and infinity of energies, forces and positions
    total = float(energy.sum() + forces.sum() + positions.sum())
    if well.all() and math.isfinite(total):
        return NOTHING
    events = []
    for row in range(len(positions)):
        event = _finite_event(row, positions[row], energy[row], forces[row])
        event = event or _distance_event(limits, row, limits.radii.new_tensor(squared[row]).sqrt())
        if event is not None:
            events.append(event)
    return Decision(tuple(events))


def _finite_event(row: int, positions: Tensor, energy: Tensor, forces: Tensor) -> Event | None:
    bad = ~torch.isfinite(positions).all(-1) | ~torch.isfinite(forces).all(-1)
    if not bool(bad.any()) and bool(torch.isfinite(energy)):
        return None
    atoms = tuple(bad.nonzero().flatten().tolist())
    what = "positions or forces are not finite" if atoms else "the energy is not finite"
    return Event(row, "halt", "not-finite", what, math.nan, math.nan, atoms)


def _distance_event(limits: Limits, row: int, distance: Tensor) -> Event | None:
    ratio = distance / limits.radii
    if len(ratio) and float(ratio.min()) < CLOSE:
        worst = int(ratio.argmin())
        i, j = int(limits.first[worst]), int(limits.second[worst])
        reason = f"atoms {i} and {j} are {float(distance[worst]):.2f} Angstrom apart"
        return Event(row, "halt", "fused", reason, float(ratio[worst]), CLOSE, (i, j))
    contact = (ratio < FAR).cpu().numpy()
    edges = np.stack([limits.first.cpu().numpy(), limits.second.cpu().numpy()], 1)[contact]
    now = components(len(limits.molecules), edges)
    for molecule in np.unique(limits.molecules):
        members = np.flatnonzero(limits.molecules == molecule)
        parts, counts = np.unique(now[members], return_counts=True)
        if len(parts) == 1:
            continue
        gone = members[now[members] != parts[np.argmax(counts)]]
        reason = "atoms flying apart: " + ", ".join(map(str, gone)) + " lost the rest of the molecule"
        gap = _nearest_across(limits, ratio, gone, members)
        return Event(row, "halt", "apart", reason, gap, FAR, tuple(int(a) for a in gone))
    return None


def _nearest_across(limits: Limits, ratio: Tensor, gone: np.ndarray, members: np.ndarray) -> float:
    """The closest contact, over the sum of radii, between the lost atoms and the rest of their molecule."""
    inside = torch.zeros(len(limits.molecules), dtype=torch.bool, device=ratio.device)
    lost = inside.clone()
    inside[members.tolist()], lost[gone.tolist()] = True, True
    i, j = limits.first, limits.second
    return float(ratio[inside[i] & inside[j] & (lost[i] != lost[j])].min())


#: positions (A, n, 3) and the extras of the force function -> scores (A,), and per-atom scores (A, n) or None.
ScoreFunction = Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class ScoreRule:
    """A calibrated score and what to do above its threshold. A score that is not a number exceeds every threshold.

    Attributes:
        name: such as ``force sigma``.
        unit: of score and threshold, for messages; empty if none.
    """

    function: ScoreFunction
    threshold: float
    action: Action
    name: str = "score"
    unit: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.threshold) or self.action not in ("halt", "flag"):
            raise ConfigError(f"threshold {self.threshold} with action '{self.action}'", hint="a number; halt or flag")

    def decide(self, positions: Tensor, extras: Mapping[str, Tensor]) -> Decision:
        """Judge A frames, positions (A, n, 3)."""
        scores, per_atom = self.function(positions, extras)
        rows = [row for row, score in enumerate(scores.tolist()) if not score <= self.threshold]
        return Decision(tuple(self._event(row, scores, per_atom) for row in rows), scores, per_atom)

    def _event(self, row: int, scores: Tensor, per_atom: Tensor | None) -> Event:
        atoms: tuple[int, ...] = ()
        if per_atom is not None:
            over = ~(per_atom[row] <= self.threshold)
            # a score of the frame may exceed the threshold although no single atom does
            atoms = tuple(over.nonzero().flatten().tolist()) or (int(per_atom[row].argmax()),)
        value = float(scores[row])
        reason = f"{self.name} {value:.4g} above {self.threshold:.4g} {self.unit}".rstrip()
        return Event(row, self.action, self.name, reason, value, self.threshold, atoms)


class Guard:
    """Judges every proposal: physical checks first, then the score of those frames that passed.

    Args:
        limits: of the reference geometry; None skips the physical checks.
        rule: the calibrated score; None for none.
    """

    def __init__(self, limits: Limits | None = None, rule: ScoreRule | None = None) -> None:
        self.limits, self.rule = limits, rule

    def __call__(self, state: Proposed) -> Decision:
        """The decision about every replica of ``state``."""
        physical, extras = NOTHING, state.extras
        if self.limits is not None:
            sound = extras.get("sound")
            physical = physical_decision(self.limits, state.positions, state.energy, state.forces, sound)
        if self.rule is None:
            return physical
        scored = self.rule.decide(state.positions, extras)
        if not physical.events:
            return scored
        broken = {e.row for e in physical.events}
        events = physical.events + tuple(e for e in scored.events if e.row not in broken)
        return Decision(tuple(sorted(events, key=lambda e: e.row)), scored.scores, scored.atom_scores)
