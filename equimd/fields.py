"""What a value of the settings may be, beside pydantic's own: times, whole numbers, names of files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from equimd.progress import parse_duration


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _as_tuple(value: object) -> object:
    if isinstance(value, (str, Path)):
        return (str(value),)
    return tuple(_as_text(v) for v in value) if isinstance(value, list | tuple) else value


def _no_truth(value: object) -> object:
    if type(value).__name__ in ("bool", "bool_"):  # numpy's too
        raise ValueError("input should be a whole number, not true or false")
    return value


WholeNumber = Annotated[int | None, BeforeValidator(_no_truth)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]
File = Annotated[str, BeforeValidator(_as_text)]
Files = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
