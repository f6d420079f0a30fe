"""Work in pieces: each finished one is a JSON file, so that an interrupted suite goes on and none is made twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks.options import say
from equimd.benchmarks.results import Row
from equimd.files import plain, sha256_of, write_json


@dataclass(frozen=True)
class MeasuredRow(Row):
    """A figure with its uncertainty.

    Attributes:
        interval: 95 %, low and high; None where none was made.
        per_seed: the value of each training seed, where the figure is their mean.
    """

    interval: list[float] | None = None
    per_seed: dict[str, float] | None = None


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short name for settings, so that a piece made with others is not taken for this one."""
    return sha256_of([json.dumps(plain(settings), sort_keys=True)])[:10]


def piece(folder: Path, name: str, settings: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> Any:
    """What ``make`` returned for these settings: read from ``folder`` if it was made before."""
    path = folder / f"{name}-{fingerprint(settings)}.json"
    if path.exists():
        return json.loads(path.read_text())
    say(f"{name} ...")
    content = plain({"name": name, "settings": settings, **make()})
    write_json(path, content, indent=1)
    return content


def over_seeds(found: Mapping[int, tuple[float | None, Sequence[float | None] | None]]) -> dict[str, Any] | None:
    """Mean over seeds, the span of their intervals, and each value: {seed: (value, interval)}; None without values."""
    values = {seed: v for seed, (v, _) in found.items() if v is not None}
    if not values:
        return None
    ends = [x for _, ends in found.values() if ends is not None for x in ends if x is not None]
    return {
        "value": float(np.mean(list(values.values()))),
        "interval": [min(ends), max(ends)] if ends else None,
        "per_seed": {str(seed): v for seed, v in values.items()},
    }
