"""How far work that takes its time is, and what callbacks are told of it.

A task is given ``progress``, anything that can be called with a :class:`Progress`;
:class:`equimd.terminal.ProgressBar` is one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

REFRESH = 0.2  # seconds between two tellings
#: What is counted in stages whose names hold these words, where several kinds of stages are told of.
STAGE_UNITS = {"runs": "steps", "own dynamics": "steps", "exploration": "steps", "frames": "frames", "training": "%"}


def duration(seconds: float) -> str:
    """``41s``, ``3m12s``, ``2h05m``."""
    s = max(0, round(seconds))
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


DURATION_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Seconds from ``90``, ``"90s"``, ``"45m"``, ``"2h"`` or ``"1h30m"``; pydantic checks anything else."""
    if not isinstance(value, str):
        return value
    parts = re.findall(r"([0-9.]+)\s*([a-z]*)", value.strip().lower())
    if not parts or "".join(a + b for a, b in parts) != re.sub(r"\s+", "", value.lower()):
        raise ValueError(f"'{value}' is not a time; write 90s, 45m, 2h or 1h30m")
    try:
        return sum(float(number) * DURATION_UNITS[unit or "s"] for number, unit in parts)
    except (KeyError, ValueError):
        raise ValueError(f"'{value}' is not a time; write 90s, 45m, 2h or 1h30m") from None


def time_left(elapsed: float, share: float) -> str:
    """``3m12s left``, if the rest goes on as the ``share`` of the work that took ``elapsed`` seconds."""
    return f"{duration(elapsed * (1 - share) / share)} left"


@dataclass(frozen=True)
class Progress:
    """How far a task is; as text, one line about it.

    Attributes:
        kind: ``step`` and ``live``, where it stands, several times a second (``live`` is only worth a bar that is drawn
            over); ``line``, something that stays: an epoch that ended, a replica that halted; ``end`` of the stage.
        stage: what is being done: ``training``, ``posterior``, ``own dynamics``, ``simulation`` ...
        share: of the stage, 0 to 1.
        head, parts: the line. left: the time left.
        values: numbers of the moment, by name; in eV and eV/Angstrom.
    """

    kind: Literal["step", "live", "line", "end"]
    stage: str
    share: float
    head: str = ""
    parts: tuple[str, ...] = ()
    left: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " | ".join(part for part in (self.head or self.stage, *self.parts, self.left) if part)


Callback: TypeAlias = Callable[[Progress], object]


class Teller:
    """Tells a callback how far one stage is: not more often than every 0.2 s, but every tenth of the work.

    Args:
        callback: None is told nothing, and costs nothing.
    """

    def __init__(self, callback: Callback | None, stage: str, kind: Literal["step", "live"] = "step") -> None:
        self._callback, self.stage, self.kind = callback, stage, kind
        self._told, self._tenth, self.share = -REFRESH, 0, 0.0

    def due(self, share: float) -> bool:
        """Whether it is time to tell."""
        if self._callback is None:
            return False
        return int(10 * share + 1e-9) > self._tenth or time.monotonic() - self._told >= REFRESH

    def step(self, share: float, head: str, *parts: str, left: str = "", values: Mapping[str, Any]) -> None:
        """Where the work stands; to be said when it is :meth:`due`."""
        self.share = min(max(share, 0.0), 1.0)
        self._told, self._tenth = time.monotonic(), int(10 * self.share + 1e-9)
        self._tell(Progress(self.kind, self.stage, self.share, head, parts, left, values))

    def line(self, head: str, *parts: str, values: Mapping[str, Any]) -> None:
        """Something that stays."""
        self._tell(Progress("line", self.stage, self.share, head, parts, values=values))

    def end(self) -> None:
        """The stage has ended, however."""
        self._tell(Progress("end", self.stage, self.share))

    def _tell(self, event: Progress) -> None:
        if self._callback is not None:
            self._callback(event)


class CountedProgress(Teller):
    """Counts pieces of work: called with how many are done and how many there are.

    Args:
        unit: what is counted; ``B`` for bytes, ``%`` where the numbers mean nothing but a share.
        known: share that was done when it began; None: what the first call says.
    """

    def __init__(self, callback: Callback | None, stage: str = "", unit: str = "", known: float | None = 0.0) -> None:
        super().__init__(callback, stage)
        self._unit, self._started, self._known = unit, time.monotonic(), known

    def __call__(self, done: int, total: int) -> None:
        share = done / total if total else 0.0
        if self._known is None:
            self._known = share
        if not self.due(share):
            return
        amount = f"{done:,} of {total:,} {self._unit}".strip()
        if self._unit == "B":
            amount = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
        if self._unit == "%":
            amount = f"{100 * share:.0f} %"
        since = (share - self._known) / (1.0 - self._known) if self._known < 1.0 else 1.0
        elapsed = time.monotonic() - self._started
        left = time_left(elapsed, since) if 0.01 < since < 1.0 else ""
        self.step(share, f"{self.stage} {amount}".strip(), left=left, values={"done": done, "total": total})


@contextmanager
def counting(callback: Callback | None, unit: str, stage: str = "") -> Iterator[CountedProgress | None]:
    """One stage of counted pieces; None where nobody is told."""
    if callback is None:
        yield None
        return
    told = CountedProgress(callback, stage, unit)
    try:
        yield told
    finally:
        told.end()


@contextmanager
def counted_stages(callback: Callback | None, unit: str | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """The same for several stages in a row, named in each call; without a unit it is that of their names."""
    now: CountedProgress | None = None
    ended = ""

    def told(stage: str, done: int, total: int) -> None:
        nonlocal now, ended
        complete = done >= total > 0
        if complete and stage == ended:  # said before
            return
        if now is None or stage != now.stage:
            named = next((u for words, u in STAGE_UNITS.items() if words in stage), "")
            now = CountedProgress(callback, stage, named if unit is None else unit, known=None)
        now(done, total)
        ended = stage if complete else ""
        if complete:
            now.end()
            now = None

    try:
        yield told
    finally:
        if now is not None:
            now.end()
