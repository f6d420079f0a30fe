"""The tables of all suites on one page."""

from __future__ import annotations

from pathlib import Path

from equimd.benchmarks.suites import SUITES
from equimd.errors import DataError


def join(folder: Path) -> Path:
    """Write ``report.md``: every suite's table that is in ``folder``, with its plots; returns its path.

    Raises:
        DataError: there are no results.
    """
    found = [name for name in SUITES if (folder / f"{name}.json").is_file() and (folder / f"{name}.md").is_file()]
    if not found:
        raise DataError("no results here", where=str(folder), hint="equimd bench accuracy --help")
    parts = ["# Benchmarks", ""]
    for name in found:
        table = (folder / f"{name}.md").read_text().strip()
        parts += [table.replace("\n# ", "\n## ").replace("# ", "## ", 1), ""]
        for image in sorted(folder.glob(f"{name}*.png")):
            parts += [f"![{image.stem.replace('-', ' ')}]({image.name})", ""]
    path = folder / "report.md"
    path.write_text("\n".join(parts))
    return path
