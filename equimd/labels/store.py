"""A folder of labels, a file each, written whole as soon as the label is there: what was asked once is known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from equimd.data.frames import Frames
from equimd.errors import RunError
from equimd.files import sha256_of, write_atomic
from equimd.labels.label import Label


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
