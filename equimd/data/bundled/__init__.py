"""The data that comes with equimd: ethanol, GFN2-xTB, made by ``equimd data generate``. README.md has the commands."""

from __future__ import annotations

from pathlib import Path

from equimd.errors import DataError

_FOLDER = Path(__file__).parent
#: Parts at 300 K, which are separate trajectories, in the order in which ``ethanol`` joins them.
PARTS = ("train", "validation", "calibration", "test")
NAMES = ("ethanol", *(f"ethanol-{part}" for part in PARTS), "ethanol-600K", "ethanol-1000K")


def paths(name: str) -> list[Path]:
    """The files of a bundled data set; ``ethanol`` is all of the 300 K parts, in the order of ``PARTS``, and the part
    for validation is ``val`` too.

    Raises:
        DataError: no such data set; the message lists them.
    """
    whole = f"{name}idation" if name.lower().endswith("-val") else name
    found = {n.lower(): n for n in NAMES}.get(whole.lower())
    if found is None:
        raise DataError(f"no bundled data set '{name}'", where=f"bundled:{name}", hint="one of " + ", ".join(NAMES))
    if found == "ethanol":
        return [_FOLDER / f"ethanol-{part}.h5" for part in PARTS]
    return [_FOLDER / f"{found}.h5"]


def path(name: str) -> Path:
    """The file of a bundled data set that is one file.

    Raises:
        DataError: no such data set, or one of several files (:func:`paths` has them).
    """
    files = paths(name)
    if len(files) > 1:
        parts = ", ".join(f.stem for f in files)
        raise DataError(f"'{name}' is {len(files)} files", where=f"bundled:{name}", hint=f"one of {parts}, or paths()")
    return files[0]
