"""What all stages of learn share: settings, notes, labels, time, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from equimd.data.frames import Frames
from equimd.errors import DataError
from equimd.labels.ledger import Labelled, LabelStore, ask_for
from equimd.labels.pool import Executor
from equimd.machine import cores
from equimd.tasks.learn.journal import Journal
from equimd.tasks.learn.settings import LearnSettings

USES = ("train", "calibrate", "audit")
LABELS_FOLDER, DATA_FOLDER, MODELS_FOLDER, CHEAP_FOLDER = "labels", "data", "models", "cheap"


class TimeIsUpError(Exception):
    """The time is up in the middle of a stage, which can be gone on with."""


def _silent(*_: Any) -> None:
    return None


def label_counts(journal: Journal) -> dict[str, int]:
    """Labels by use, those that failed apart; ``given`` were there before, the others are calls of this run."""
    found = dict.fromkeys((*USES, "given", "failed", "total"), 0)
    for result in journal.results.values():
        if "labelled" in result:
            found[result["use"]] += result["labelled"]
            found["failed"] += result["failed"]
            found["total"] += result["labelled"] + result["failed"]
    return found


@dataclass
class Work:
    """A learn folder under way.

    Attributes:
        template: the molecule as a block of one frame, with charge and multiplicity.
        say: told a line now and then. progress: told stage, done, total.
    """

    settings: LearnSettings
    folder: Path
    journal: Journal
    executor: Executor
    template: Frames
    say: Callable[[str], None] = _silent
    progress: Callable[[str, int, int], None] = _silent
    store: LabelStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = LabelStore(self.folder / LABELS_FOLDER, self.settings.calculator)

    # time

    @property
    def left(self) -> float:
        """Seconds left of all the time."""
        return self.settings.max_time - self.journal.seconds

    def check_time(self) -> None:
        """Raise TimeIsUpError if nothing is left."""
        if self.left <= 0:
            raise TimeIsUpError

    # labels

    @property
    def labels(self) -> dict[str, int]:
        """Calls of the reference method so far."""
        return label_counts(self.journal)

    @property
    def labels_left(self) -> int:
        """Calls that may still be made."""
        return self.settings.labels - self.labels["total"] + self.labels["given"]

    def label_seconds(self, count: int) -> float:
        """What so many labels take about, side by side, as the first ones took."""
        first = self.journal.result("conformers") or {}
        calls = max(first.get("labelled", 0) + first.get("failed", 0), 1)
        jobs = self.settings.jobs or cores()
        return float(first.get("seconds", 0.0)) / calls * count / jobs

    def at(self, positions: np.ndarray) -> Frames:
        """The molecule at other positions (k, n, 3), without labels."""
        return self.template.at(positions)

    def ask(self, stage: str, frames: Frames) -> Labelled:
        """Labels of frames; the time is watched."""
        return ask_for(
            self.store,
            self.executor,
            frames,
            progress=lambda done, total: self.progress(f"{stage}: labels", done, total),
            checked=self.check_time,
        )

    def label(
        self, stage: str, use: str, frames: Frames, group: np.ndarray | Sequence[int], **extra: str | int | float
    ) -> dict[str, Any]:
        """Label frames and write those that could be as ``data/STAGE.h5``, with their temperature; a stage of its own.

        Raises:
            DataError: not one could be labelled.
        """

        def work() -> dict[str, Any]:
            found = self.ask(stage, frames)
            if not len(found.rows):
                reason = next(iter(found.failed.values()), "there were none")
                raise DataError(
                    f"{self.settings.calculator} failed on all of {len(frames)} frames: {reason}",
                    hint="look at the molecule, its charge and multiplicity, and the calculator",
                )
            found.write(self.data_path(stage), np.asarray(group), extra)
            return {"use": use, **found.summary(), "seconds": found.seconds, **extra}

        return self.journal.once(stage, work)

    # paths

    def data_path(self, stage: str) -> Path:
        """The labelled frames of a stage."""
        return self.folder / DATA_FOLDER / f"{stage}.h5"

    def model_path(self, number: int | str) -> Path:
        """The run folder of a model."""
        return self.folder / MODELS_FOLDER / str(number)
