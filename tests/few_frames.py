"""Every tenth of the bundled frames in the place of all of them, for examples that run as they are printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import equimd
from equimd.data import bundled
from equimd.data.convert import write_frames


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
