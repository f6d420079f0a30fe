"""Labels for a purpose: asked for where they are not known, counted, and written as a data set of their own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from equimd.data.convert import write_frames
from equimd.data.dataset import ArrayDataset, DatasetInfo
from equimd.data.frames import Frames
from equimd.errors import RunError
from equimd.files import sha256_of, write_atomic
from equimd.labels.label import Label
from equimd.labels.pool import Executor

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Labelled:
    """Frames with their labels, those that failed left out.

    Attributes:
        frames: the labelled ones. rows: which of the frames asked for they are.
        failed: row and reason of the others. theory: the method's own name. seconds: of all calls together.
    """

    frames: Frames
    rows: np.ndarray
    failed: dict[int, str]
    theory: str
    seconds: float

    def write(
        self, path: Path, group: np.ndarray, extra: dict[str, str | int | float], time: np.ndarray | None = None
    ) -> None:
        """As a data set (.h5); ``group`` (of all that were asked for) becomes the trajectory of each frame."""
        own = None if time is None else np.asarray(time)[self.rows]
        data = ArrayDataset(self.frames, DatasetInfo(str(path), "labelled"), np.asarray(group)[self.rows], own)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_frames(path, data, theory=self.theory, source="equimd learn", extra=extra)

    def summary(self) -> dict[str, Any]:
        """Counts and reasons, as plain values."""
        reasons: dict[str, int] = {}
        for reason in self.failed.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        return {"labelled": len(self.rows), "failed": len(self.failed), "reasons": reasons, "theory": self.theory}


def ask_for(
    store: LabelStore,
    executor: Executor,
    frames: Frames,
    *,
    progress: Progress | None = None,
    checked: Callable[[], None] | None = None,
) -> Labelled:
    """Labels of frames, from the store where it has them; each new one is in the store as soon as it is there.

    Args:
        checked: called after each label; what it raises ends the work, and what is labelled is kept.
    """
    single = [frames.take([k]) for k in range(len(frames))]
    found: dict[int, Label] = {}
    for k, frame in enumerate(single):
        known = store.get(frame)
        if known is not None:
            found[k] = known
    missing = {k: frame for k, frame in enumerate(single) if k not in found}
    for key, label in executor.labels(missing) if missing else ():
        store.put(single[key], label)
        found[key] = label
        if progress is not None:
            progress(len(found), len(single))
        if checked is not None:
            checked()
    return _labelled(frames, [found[k] for k in range(len(single))])


def _labelled(frames: Frames, labels: list[Label]) -> Labelled:
    rows = np.array([k for k, label in enumerate(labels) if not label.failed], np.int64)
    chosen = frames.take(rows)
    complete = Frames.build(
        chosen.numbers,
        chosen.positions,
        np.array([labels[k].energy for k in rows]),
        np.array([labels[k].forces for k in rows]).reshape(chosen.positions.shape),
        chosen.cell,
        chosen.pbc,
        chosen.charge,
        chosen.spin,
    )
    failed = {k: label.failed for k, label in enumerate(labels) if label.failed}
    theory = next((labels[k].theory for k in rows), "")
    return Labelled(complete, rows, failed, theory, sum(label.seconds for label in labels))


class LabelStore:
    """Labels by the content of their frame and the method asked. Frames are blocks of one."""

    def __init__(self, folder: Path, calculator: str) -> None:
        self.folder, self.calculator = folder, calculator

    def path(self, frame: Frames) -> Path:
        """Where the label of a frame is, or will be."""
        name = sha256_of([f"{frame.content_hashes()[0]}|{self.calculator}"])[:32]
        return self.folder / f"{name}.npz"

    def get(self, frame: Frames) -> Label | None:
        """The label of a frame, failed ones too; None where the method was not asked yet.

        Raises:
            RunError: its file is damaged.
        """
        path = self.path(frame)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as data:
                return Label(
                    float(data["energy"]),
                    data["forces"],
                    str(data["theory"]),
                    float(data["seconds"]),
                    str(data["failed"]),
                )
        except (OSError, ValueError, KeyError, EOFError) as error:
            hint = "remove it, and it is asked for again"
            raise RunError(f"the label is damaged ({error})", where=str(path), hint=hint) from None

    def put(self, frame: Frames, label: Label) -> None:
        """Keep a label; a reader, or a crash, sees all of it or nothing."""
        content = io.BytesIO()
        np.savez(
            content,
            energy=np.array(label.energy),
            forces=label.forces,
            theory=np.array(label.theory),
            seconds=np.array(label.seconds),
            failed=np.array(label.failed),
            numbers=frame.numbers[0],
            positions=frame.positions[0],
        )
        write_atomic(self.path(frame), content.getvalue())
