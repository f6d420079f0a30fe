"""Logarithmic axes that a reader can read: 1, 2, 5, 10 ... as plain numbers."""

from __future__ import annotations

from typing import Any


def plain_log(axes: Any) -> None:
    """For both axes of a plot that are logarithmic."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
