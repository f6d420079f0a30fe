"""What a hundred million structures would cost, by arithmetic from what smaller numbers of them did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equimd.progress import duration

COUNT, PROCESSES = 100_000_000, 64
RESOLVED = 0.02  # growth of memory from one number to the other that is told from noise
LINES = ("on disk", "command to first step", "memory of each process", f"an epoch on {PROCESSES} such processes")


def ahead(results: Mapping[str, Any], count: int = COUNT) -> str:
    """A column a kind of structures of which two numbers were measured: a line through the two largest, to ``count``.

    An epoch takes what the frames a second of one process say, shared by :data:`PROCESSES` without loss.
    """
    values = {row["name"]: row["value"] for row in results["rows"]}
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name, value in values.items():
        _, kind, number, batches, metric = name.split("/")
        if batches.split("-")[0] in ("atoms", "frames"):
            found.setdefault(kind, {}).setdefault(int(number), {})[metric] = value
    columns = {kind: _column(sizes, count) for kind, sizes in found.items() if len(sizes) > 1}
    lines = [f"| {count:,} structures | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    lines += [f"| {head} | {' | '.join(column[k] for column in columns.values())} |" for k, head in enumerate(LINES)]
    return "\n".join(lines) + "\n"


def _column(sizes: Mapping[int, Mapping[str, float]], count: int) -> list[str]:
    few, many = sorted(sizes)[-2:]

    def at(metric: str) -> float:
        slope = (sizes[many][metric] - sizes[few][metric]) / (many - few)
        return sizes[many][metric] + slope * (count - many)

    epoch = count / sizes[many]["frames_per_s"] / PROCESSES
    grown = sizes[many]["peak_MiB"] - sizes[few]["peak_MiB"]
    seen = grown > RESOLVED * sizes[few]["peak_MiB"]
    return [
        f"{sizes[many]['bytes_per_frame'] * count / 1e9:,.0f} GB",
        duration(at("first_step_s")),
        f"{at('peak_MiB') / 1024:,.0f} GiB" if seen else "growth hidden by the step's own",
        f"{epoch / 3600:,.0f} h",
    ]
