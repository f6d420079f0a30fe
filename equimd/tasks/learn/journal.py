"""The notes of a learn folder: what was decided and what was found, so that a killed run goes on to the same end.

``plan.json`` holds decisions that came from a clock or from what else a repetition would not give again: how many
epochs a training has, whether another round begins. Each is written before it takes effect, and kept from then on.
``journal.json`` holds the result of each finished stage, and the time spent. A stage that was not finished begins anew
from the same decision, with the same seeds, and ends the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from equimd.errors import RunError
from equimd.files import STRANGE, check_version, strictly, write_atomic
from equimd.notices import doing

PLAN_FILE, JOURNAL_FILE = "plan.json", "journal.json"
VERSION = 1


class Journal:
    """Decisions and results by stage, such as ``train-2``.

    Args:
        folder: of the run; what it holds already is gone on with.

    Attributes:
        noted_seconds: wall time of the sessions before, as noted: what a reader of a run says it took.

    Raises:
        RunError: the notes are damaged, or of a newer version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan = _read(folder / PLAN_FILE)
        self._results = _read(folder / JOURNAL_FILE)
        self.noted_seconds = float(self._results.get("seconds", 0.0))
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of all sessions, that of a killed one up to its last note."""
        return self.noted_seconds + time.monotonic() - self._began

    def decide(self, stage: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The decision about a stage: the one on file, else ``make()``, which is on file before it is returned."""
        if stage not in self._plan["stages"]:
            decision = dict(make())
            self._plan["stages"][stage] = decision
            self._write(PLAN_FILE, self._plan)
        return dict(self._plan["stages"][stage])

    def decision(self, stage: str) -> dict[str, Any]:
        """The decision about a stage; empty if there is none yet."""
        return dict(self._plan["stages"].get(stage, {}))

    def result(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage found; None if it is not finished."""
        found = self._results["stages"].get(stage)
        return None if found is None else dict(found)

    def finish(self, stage: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Note that a stage is finished, and what it found, in JSON's own types."""
        self._results["stages"][stage] = dict(result)
        self.note_time()
        return dict(result)

    def note_time(self) -> None:
        """Write down the time spent so far."""
        self._write(JOURNAL_FILE, {**self._results, "seconds": round(self.seconds, 3)})

    def once(self, stage: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The result of a stage, whose work is done if it is not finished."""
        found = self.result(stage)
        if found is not None:
            return found
        doing(stage)
        return self.finish(stage, work())

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """All finished stages, in the order they were finished."""
        return dict(self._results["stages"])

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        write_atomic(self.folder / name, json.dumps(values, indent=1, allow_nan=False) + "\n")


@dataclass
class _Notes:
    version: int
    stages: dict[str, dict[str, Any]]
    seconds: float = 0.0


@dataclass
class _Labels:
    use: Literal["train", "calibrate", "audit", "given"]
    labelled: int
    failed: int


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"version": VERSION, "stages": {}}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        check_version(values["version"], VERSION, path, "the notes")
        for stage in strictly(_Notes, values).stages.values():
            if "labelled" in stage:
                strictly(_Labels, stage)
    except (OSError, *STRANGE) as error:
        raise RunError(f"cannot be read ({error})", where=str(path), hint="a copy of it, or a new --out") from None
    return dict(values)
