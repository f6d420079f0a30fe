"""For examples that run as they are printed: every tenth of the bundled frames, and settings of seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import equimd
from equimd.data import bundled
from equimd.data.convert import write_frames

#: A calibration of seconds.
SHORT = {"false_alarm_rate": 0.05, "run_length": 10, "blocks": 9}


def shorter_python(tiny: Mapping[str, Any]) -> dict[str, str]:
    """What takes minutes in the examples in Python, and what is done instead; ``SHORT`` is to be in their scope."""
    return {
        'preset="small", max_time="5m"': ", ".join(f"{key}={value!r}" for key, value in tiny.items()),
        'calibrate(trained, "bundled:ethanol"': 'calibrate(trained, "bundled:ethanol", **SHORT',
        'time="5ps"': 'time="10fs"',
    }


@contextmanager
def few_bundled_frames(folder: Path) -> Iterator[None]:
    """``bundled:NAME`` means the few frames, which are written to ``folder``."""
    for path in bundled._FOLDER.glob("*.h5"):
        data = equimd.data.StoreDataset(path)
        write_frames(
            folder / path.name, equimd.data.Subset(data, range(0, len(data), 10)), extra={"temperature": 300.0}
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "_FOLDER", folder)
        yield
