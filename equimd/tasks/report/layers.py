"""What is drawn into a plot: lines, points, densities, bars of error, marks; plain values, as ``page/plot.js`` takes.

``colour`` is the name of one of the page's colours, which differ between light and dark: ``blue``, ``red``, ``green``,
``amber``, ``violet``, ``grey``, ``ink``. A layer with a ``replica`` is drawn where that replica is chosen, and faintly
where another is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equimd.tasks.report.page import values

Layer = dict[str, Any]

MAX_POINTS = 1500  # of one layer; more are drawn as a density
CELLS = 100  # of a density, along each axis


def line(x: Any, y: Any, colour: str, name: str = "", *, dash: bool = False, **more: Any) -> Layer:
    """A line through points of rising x."""
    return {"kind": "line", "x": values(x), "y": values(y), "colour": colour, "name": name, "dash": dash, **more}


def points(x: Any, y: Any, colour: str, name: str = "", *, mark: str = "dot", **more: Any) -> Layer:
    """Points: ``dot``, or ``cross``."""
    return {"kind": "points", "x": values(x), "y": values(y), "colour": colour, "name": name, "mark": mark, **more}


def bars(x: Any, y: Any, spread: Any, colour: str, name: str = "") -> Layer:
    """Points with bars of error from y - spread to y + spread."""
    low, high = np.asarray(y) - np.asarray(spread), np.asarray(y) + np.asarray(spread)
    return {**points(x, y, colour, name), "low": values(low), "high": values(high)}


def level(y: float, colour: str, name: str = "", *, dash: bool = True) -> Layer:
    """A horizontal line."""
    return {"kind": "level", "at": y, "colour": colour, "name": name, "dash": dash}


def upright(x: float, colour: str, name: str = "", *, dash: bool = True) -> Layer:
    """A vertical line."""
    return {"kind": "upright", "at": x, "colour": colour, "name": name, "dash": dash}


def diagonal(name: str = "") -> Layer:
    """y = x."""
    return {"kind": "diagonal", "colour": "ink", "name": name}


def scatter(x: np.ndarray, y: np.ndarray, colour: str, name: str = "") -> Layer:
    """Points, or where they are many their density on a square grid."""
    if len(x) <= MAX_POINTS:
        return points(x, y, colour, name)
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    step = (high - low) / CELLS or 1.0
    place = [np.clip(((v - low) / step).astype(np.int64), 0, CELLS - 1) for v in (x, y)]
    cells, counts = np.unique(place[0] * CELLS + place[1], return_counts=True)
    return {
        "kind": "density", "low": low, "step": step, "n": CELLS, "cells": cells.tolist(), "counts": counts.tolist(),
        "colour": colour, "name": name,
    }  # fmt: skip
