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
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from equimd.data.system import System
from equimd.errors import ConfigError, DataError
from equimd.guard.limits import CLOSE, FAR, Limits, components, squared_distances
from equimd.guard.score import SCORE_NAME, SCORE_UNIT, Rule, StepDecision, StepScore
from equimd.model.interface import Model

Action = Literal["halt", "flag"]
NO_EXTRAS: Mapping[str, Any] = MappingProxyType({})
BELONGS = "Judge.of(...) and ForceField(...) of the same model, structure, charge and spin"


@dataclass(frozen=True)
class Event:
    """Why one replica was halted or flagged.

    Attributes:
        row: which row of the positions that were judged.
        reason: one sentence part, such as ``atoms 3 and 7 are 0.21 Angstrom apart``.
        code: ``not-finite``, ``fused``, ``apart``, ``drift`` or the name of the score.
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
        event = event or _distance_event(limits, row, positions[row : row + 1])
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


def _distance_event(limits: Limits, row: int, positions: Tensor) -> Event | None:
    distance = limits.radii.new_tensor(squared_distances(limits, positions, exact=True)[0]).sqrt()
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


class Judge:
    """Judges frames of one structure: physical checks first, then the calibrated score of those that passed.

    The judge of a calibrated model is made by :meth:`of`, and :class:`~equimd.forces.forcefield.ForceField` is given
    it, so that forces come with what it needs: the screen of its score, and which frames are well within its limits.

    Args:
        limits: of the reference geometry; None leaves out the physical checks.
        score: of frames; None for none.
        threshold: a frame that scores above it is halted or flagged, and one whose score is not a number. None: nothing
            is compared, and the score is there for whoever calls it.
        action: what is done above the threshold, ``halt`` or ``flag``.
        name, unit: of score and threshold, for messages; such as ``force sigma``.
        flag: a lower threshold; frames between the two are flagged, whatever the action.

    Raises:
        ConfigError: a threshold that is not a number or has no score, a higher one of flags, or another action.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        score: ScoreFunction | None = None,
        threshold: float | None = None,
        action: Action = "halt",
        *,
        name: str = "score",
        unit: str = "",
        flag: float | None = None,
    ) -> None:
        self.limits, self.score, self.threshold, self.action = limits, score, threshold, action
        self.name, self.unit, self.flag = name, unit, flag
        #: The structure, where it is known.
        self.system: System | None = getattr(limits or score, "system", None)
        if threshold is not None and (math.isnan(threshold) or score is None):
            raise ConfigError(f"a threshold of {threshold} without a score", hint="a number, and a score")
        if action not in ("halt", "flag"):
            raise ConfigError(f"no action '{action}'", hint="halt or flag")
        if flag is not None and not (threshold is not None and flag < threshold):
            raise ConfigError(f"flags above {flag}, not below the threshold {threshold}", hint="one threshold alone")

    @classmethod
    def of(
        cls,
        model: Model,
        system: System,
        rule: Rule | None,
        action: Action = "halt",
        *,
        limits: Limits | None = None,
        charge: int = 0,
        spin: int = 0,
    ) -> Judge:
        """The judge of a structure by the force sigma of a calibrated model.

        Args:
            model: eager; it computes the exact covariances, whatever computes the forces.
            rule: as :meth:`equimd.guard.calibration.Calibration.choose` gives it; None: the physical checks alone. Of
                two thresholds each speaks of the frames that its own decision does not clear, so that its rate is what
                it would be alone.
            charge, spin: of the structure, for models that see them.

        Raises:
            UncertaintyError: a model trained on energies alone, or a threshold below the screen's level.
        """
        if rule is None:
            return cls(limits, action=action)
        threshold = rule.decision.check(rule.threshold)
        lower, flag = (None, None) if rule.flag is None else (rule.flag[0], rule.flag[0].check(rule.flag[1]))
        score = StepScore(rule.decision, model, system, lower=lower, charge=charge, spin=spin)
        return cls(limits, score, threshold, action, name=SCORE_NAME, unit=SCORE_UNIT, flag=flag)

    @property
    def decision(self) -> StepDecision | None:
        """Behind the force sigma; None of another score, or without one."""
        return self.score.decision if isinstance(self.score, StepScore) else None

    def __call__(self, positions: Any, energy: Any, forces: Any, extras: Mapping[str, Any] = NO_EXTRAS) -> Decision:
        """The decision about A frames, NumPy arrays or torch tensors; or about one, without the first dimension.

        Args:
            positions, forces: (A, n, 3) Angstrom and eV/Angstrom. energy: (A,) eV.
            extras: what the score reads: the pooled ``features`` (A, P) or the ``screen`` (A,) of
                :class:`~equimd.forces.forcefield.ForceField`; and ``sound`` (A,), frames known to be well.

        Raises:
            DataError: shapes that do not fit each other or the structure.
            UncertaintyError: the score lacks what it reads.
        """
        given = (positions, energy, forces, *extras.values())
        if getattr(positions, "ndim", 0) != 3 or not all(isinstance(x, Tensor) for x in given):
            positions, energy, forces, extras = _frames(positions, energy, forces, extras)
        self._check(positions, energy, forces, extras)
        physical = NOTHING
        if self.limits is not None:
            physical = physical_decision(self.limits, positions, energy, forces, extras.get("sound"))
        if self.score is None or self.threshold is None:
            return physical
        scores, per_atom = self.score(positions, extras)
        broken = {e.row for e in physical.events}
        lowest = self.threshold if self.flag is None else self.flag
        over = [row for row, score in enumerate(scores.tolist()) if not score <= lowest and row not in broken]
        said = self._said(over, self.threshold, scores, per_atom, extras) if over else []
        return Decision(tuple(sorted((*physical.events, *said), key=lambda e: e.row)), scores, per_atom)

    def check_belongs(self, model: Model, system: System, charge: int, spin: int) -> None:
        """Refuse to judge what another model says, or of another structure than these.

        Raises:
            ConfigError: it is not the judge of these.
        """
        mine = [self.system] if self.system is not None else []
        if isinstance(self.score, StepScore):
            mine.append(self.score.system)
            if self.score.model is not model or (self.score.charge, self.score.spin) != (charge, spin):
                raise ConfigError("the judge is of another model, charge or spin than the forces", hint=BELONGS)
        if not all(system.same(other) for other in mine):
            raise ConfigError("the judge is of another structure than the forces", hint=BELONGS)

    def _check(self, positions: Tensor, energy: Tensor, forces: Tensor, extras: Mapping[str, Tensor]) -> None:
        shape = tuple(positions.shape)
        n = self.system.n_atoms if self.system is not None else shape[-2] if len(shape) == 3 else "n"
        if shape[1:] != (n, 3) or forces.shape != positions.shape or energy.shape != shape[:1]:
            what = f"positions {shape}, energy {tuple(energy.shape)} and forces {tuple(forces.shape)}"
            raise DataError(f"{what} are not those of frames of {n} atoms", where="judge")
        if any(len(x) != shape[0] for x in extras.values()):
            raise DataError(f"other values than of {shape[0]} frames among {', '.join(extras)}", where="judge")

    def _said(
        self,
        rows: list[int],
        threshold: float,
        scores: Tensor,
        per_atom: Tensor | None,
        extras: Mapping[str, Tensor],
    ) -> list[Event]:
        """Of frames above the lowest threshold."""
        if self.flag is None:
            return [self._event(row, threshold, self.action, scores, per_atom) for row in rows]
        screen, levels = None, (0.0, 0.0)
        if isinstance(self.score, StepScore):
            screen, levels = self.score.screen(extras).tolist(), self.score.levels
        both: list[tuple[float, Action, float]] = [(threshold, self.action, levels[0]), (self.flag, "flag", levels[1])]
        found = []
        for row in rows:
            for limit, action, level in both:
                cleared = screen is not None and screen[row] < level
                if not cleared and not float(scores[row]) <= limit:
                    found.append(self._event(row, limit, action, scores, per_atom))
                    break
        return found

    def _event(self, row: int, threshold: float, action: Action, scores: Tensor, per_atom: Tensor | None) -> Event:
        atoms: tuple[int, ...] = ()
        if per_atom is not None:
            over = ~(per_atom[row] <= threshold)
            # a score of the frame may exceed the threshold although no single atom does
            atoms = tuple(over.nonzero().flatten().tolist()) or (int(per_atom[row].argmax()),)
        value = float(scores[row])
        reason = f"{self.name} {value:.4g} above {threshold:.4g} {self.unit}".rstrip()
        return Event(row, action, self.name, reason, value, threshold, atoms)


def _frames(positions: Any, energy: Any, forces: Any, extras: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """The values as tensors, those of one structure as of one frame; copies of arrays."""
    single = np.ndim(positions) == 2

    def tensor(x: Any, dtype: type | None = np.float64) -> Tensor:
        out = x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.array(x, dtype))
        return out[None] if single else out

    return tensor(positions), tensor(energy), tensor(forces), {k: tensor(v, None) for k, v in extras.items()}
