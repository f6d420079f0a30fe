"""Frames that the guard spoke about: every halt, and one frame for each flagged event, not its hundred neighbours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equimd.data.system import System
from equimd.guard.judge import Decision, Event


@dataclass(frozen=True)
class SuspectFrame:
    """The offending frame of a halted replica, or the worst frame of one flagged event.

    Attributes:
        replica, step: where. Of a halt it is the step that was refused: the last good one is the step before.
        action, code, reason, score, threshold, atoms: as in :class:`~equimd.guard.judge.Event`.
        start, last, count: first and last flagged step of the event, and how many were flagged.
        positions: (n, 3) Angstrom.
        atom_scores: (n,), NaN where the score has none per atom.
    """

    replica: int
    step: int
    action: str
    code: str
    reason: str
    score: float
    threshold: float
    atoms: tuple[int, ...]
    start: int
    last: int
    count: int
    positions: Tensor
    atom_scores: Tensor


class SuspectRecorder:
    """Collects the frames to look at: what :meth:`update` is told of every proposal, at most one frame an event.

    Flags of one replica less than ``gap`` steps apart are one event, which lasts ``length`` steps at most; its frame
    with the highest score is kept. All of it is in :meth:`dump`, so that a run goes on after a restart as if never
    stopped.

    Args:
        gap, length: steps.
    """

    def __init__(self, *, gap: int = 200, length: int = 2000) -> None:
        self.gap, self.length = gap, length
        self.flagged_steps = 0
        self._open: dict[int, SuspectFrame] = {}
        self._finished: list[SuspectFrame] = []

    def update(self, decision: Decision, positions: Tensor, step: int, replicas: Sequence[int]) -> None:
        """Note what was decided about step ``step`` of some replicas, positions (A, n, 3)."""
        for event in decision.events:
            per_atom = None if decision.atom_scores is None else decision.atom_scores[event.row]
            frame = _frame(event, replicas[event.row], step, positions[event.row].cpu(), per_atom)
            if event.action == "halt":
                self._finished.append(frame)
            else:
                self.flagged_steps += 1
                self._note(frame)

    def _note(self, frame: SuspectFrame) -> None:
        known = self._open.get(frame.replica)
        if known is not None:
            if frame.step - known.last < self.gap and frame.step - known.start < self.length:
                worse = frame if not frame.score <= known.score else known
                frame = replace(worse, start=known.start, last=frame.step, count=known.count + 1)
            else:
                self._finished.append(known)
        self._open[frame.replica] = frame

    def frames(self) -> list[SuspectFrame]:
        """All halts, and one frame for each flagged event so far, in the order of their steps."""
        return sorted([*self._finished, *self._open.values()], key=lambda f: (f.step, f.replica))

    @property
    def halts(self) -> list[SuspectFrame]:
        return [f for f in self.frames() if f.action == "halt"]

    @property
    def n_flagged(self) -> int:
        """Flagged events."""
        return sum(f.action == "flag" for f in self.frames())

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values for a restart file."""
        frames = [*self._finished, *self._open.values()]
        tensors = {}
        if frames:
            tensors = {name: torch.stack([getattr(f, name) for f in frames]) for name in ("positions", "atom_scores")}
        # floats as hexadecimal text: exact, and JSON has no NaN
        plain = [
            {k: v.hex() if isinstance(v, float) else v for k, v in vars(f).items() if not isinstance(v, Tensor)}
            for f in frames
        ]
        return tensors, {"frames": plain, "n_open": len(self._open), "flagged_steps": self.flagged_steps}

    def load(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from :meth:`dump`."""
        frames = []
        for k, plain in enumerate(meta["frames"]):
            numbers = {name: float.fromhex(plain[name]) for name in ("score", "threshold")}
            arrays = {name: tensors[name][k].clone() for name in ("positions", "atom_scores")}
            frames.append(SuspectFrame(**{**plain, **numbers, **arrays, "atoms": tuple(plain["atoms"])}))
        n_open = int(meta["n_open"])
        self._finished = frames[: len(frames) - n_open]
        self._open = {f.replica: f for f in frames[len(frames) - n_open :]}
        self.flagged_steps = int(meta["flagged_steps"])


def _frame(event: Event, replica: int, step: int, positions: Tensor, per_atom: Tensor | None) -> SuspectFrame:
    if per_atom is None:
        per_atom = positions.new_full(positions.shape[:1], torch.nan)
    return SuspectFrame(
        replica,
        step,
        event.action,
        event.code,
        event.reason,
        float(event.score),
        float(event.threshold),
        event.atoms,
        step,
        step,
        1,
        positions.clone(),
        per_atom.to("cpu", torch.float64, copy=True),
    )


def write_suspects(
    path: str | Path, system: System, frames: Sequence[SuspectFrame], info: Mapping[str, Any] | None = None
) -> None:
    """Extended XYZ of suspect frames: ``responsible`` (1 or 0) and ``atom_score`` per atom, the rest in ``info``.

    ``info`` is added to that of each frame.

    Frames whose positions are not finite are left out: no reader takes them.
    """
    from ase import Atoms
    from ase.constraints import FixAtoms
    from ase.io import write

    from equimd.files import write_atomic

    out = []
    for f in frames:
        if not bool(torch.isfinite(f.positions).all()):
            continue
        cell = None if system.cell is None else system.cell.cpu().numpy()
        atoms = Atoms(system.numbers.cpu().numpy(), f.positions.numpy(), cell=cell, pbc=system.pbc)
        atoms.set_constraint(None if system.fixed is None else FixAtoms(mask=system.fixed.cpu().numpy()))
        atoms.info = {"replica": f.replica, "step": f.step, "action": f.action, "code": f.code, "reason": f.reason}
        atoms.info |= {"score": f.score, "threshold": f.threshold, "flagged_steps": f.count, "first_step": f.start}
        atoms.info |= info or {}
        atoms.arrays["responsible"] = torch.zeros(len(atoms), dtype=torch.int64).numpy()
        atoms.arrays["responsible"][list(f.atoms)] = 1
        if bool(torch.isfinite(f.atom_scores).all()):
            atoms.arrays["atom_score"] = f.atom_scores.numpy()
        out.append(atoms)
    text = io.StringIO()
    if out:
        write(text, out, format="extxyz")
    write_atomic(path, text.getvalue())
