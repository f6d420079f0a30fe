"""How objects look in an interpreter and in a notebook: what they say of themselves, never their arrays; numbers."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sized
from dataclasses import fields, is_dataclass
from typing import Any

LONGEST = 60  # characters of a value that nobody chose words for


class Shown:
    """Base of objects with a short ``repr`` and a table in notebooks, both made of :meth:`_shown`.

    A dataclass is made with ``repr=False``; unless it says otherwise, its fields are shown, arrays by their shape.
    """

    def _shown(self) -> Mapping[str, str]:
        """Names and values, a line each in a notebook."""
        return {f.name: brief(getattr(self, f.name)) for f in fields(self)} if is_dataclass(self) else {}

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {value}" for name, value in self._shown().items())
        return f"<{type(self).__name__}{' ' * bool(inside)}{inside}>"

    def _repr_html_(self) -> str:
        cell = "<td style='text-align:left'>{}</td>".format
        rows = (f"<tr>{cell(html.escape(n))}{cell(html.escape(v))}</tr>" for n, v in self._shown().items())
        return f"<table><caption>{type(self).__name__}</caption>{''.join(rows)}</table>"


def brief(value: Any) -> str:
    """A value in few characters: an array by its shape and type, what is long by its kind and number."""
    if getattr(value, "shape", ()) != ():
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    if len(text) <= LONGEST:
        return text
    return type(value).__name__ + (f" of {len(value)}" if isinstance(value, Sized) else "")


def digits(value: float, count: int = 3) -> str:
    """So many significant digits, without an exponent where that is readable."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{count - 1}e}"
    return f"{value:.{max(0, count - 1 - math.floor(math.log10(abs(value))))}f}"


def counted(count: int, noun: str) -> str:
    """``1 epoch``, ``3 epochs``: the noun is one whose plural takes an s."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def span(values: Any) -> str:
    """``9`` or ``3 to 21``: the least and the largest of some whole numbers."""
    low, high = int(min(values, default=0)), int(max(values, default=0))
    return f"{low}" if low == high else f"{low} to {high}"


def with_error(value: float, error: float, least: int = 2) -> str:
    """``1.5312 ± 0.0004``: as many decimals as two digits of the error take; without an error, ``least`` decimals."""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.{least}f}"
    decimals = min(max(1 - math.floor(math.log10(error)), 0), 9)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def with_errors(value: float, model: float | None, sampling: float, least: int = 2) -> str:
    """``1.5312 ± 0.0021 ± 0.0004``, model and sampling: two digits of the larger error, and up to two more for the
    smaller. As :func:`with_error` without the model's."""
    errors = [e for e in (model, sampling) if e is not None and math.isfinite(e) and e > 0]
    if model is None or not errors:
        return with_error(value, sampling, least)
    places = [1 - math.floor(math.log10(e)) for e in (max(errors), min(errors))]
    decimals = min(max(places[0], min(places[1] - 1, places[0] + 2), 0), 9)
    told = ["?" if not math.isfinite(e) else f"{e:.{decimals}f}" for e in (model, sampling)]
    return f"{value:.{decimals}f} ± {told[0]} ± {told[1]}"
