"""Logarithmic axes that a reader can read: 1, 2, 5, 10 ... as plain numbers, or 1, 10, 100 where these are many."""

from __future__ import annotations

from typing import Any


def plain_log(axes: Any) -> None:
    """For both axes of a plot that are logarithmic, once their limits stand."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis, most in ((axes.xaxis, 1e3), (axes.yaxis, 1e4)):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < most * low else (1,)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
