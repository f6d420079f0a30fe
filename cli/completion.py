"""What TAB offers for options that take some names and more: the names. Options of a fixed choice need none of it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from glob import escape, glob

Completion = Callable[[str], list[str]]


def completing(names: Callable[[], Iterable[str]]) -> Completion:
    """TAB among ``names``, which are asked for only then; typer's ``autocompletion``."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.lower().startswith(incomplete.lower())]

    return complete


@contextmanager
def words_of_bash() -> Iterator[None]:
    """Bash breaks words at ``:`` and ``=``: what it asks for, ``bundled:ethanol`` or ``--preset=s``, is joined again,
    and what stands before the last break, which it keeps, is left out of the answers."""
    words, at = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
    joined, place = [""], 0
    for number, word in enumerate(words):
        breaks = re.fullmatch("[:=]+", word) is not None
        if joined[-1] and (breaks or joined[-1][-1] in ":="):
            joined[-1] += word
        else:
            joined.append(word)
        if number == at:
            place = len(joined) - 1
    os.environ |= {"COMP_WORDS": "\n".join(joined[1:]), "COMP_CWORD": str(place - 1)}
    kept = re.match("(?:.*[:=])?", joined[place])
    answers = io.StringIO()
    try:
        with redirect_stdout(answers):
            yield
    finally:
        for line in answers.getvalue().splitlines():
            print(line.removeprefix(kept[0] if kept else ""))


def presets() -> Iterable[str]:
    """Of `equimd train`."""
    from equimd.config import PRESETS

    return PRESETS


def bundled() -> Iterable[str]:
    """Data that comes with equimd; the shell itself offers files where none of it fits."""
    from equimd.data.bundled import NAMES

    return [f"bundled:{name}" for name in NAMES]


def structures(incomplete: str) -> list[str]:
    """Molecules by a common name and bundled data; files beside them, which a shell offers alone where none fits."""
    from equimd.data.readers.structures import COMMON

    named = completing(lambda: [*COMMON, *bundled()])(incomplete)
    return [*named, *sorted(glob(f"{escape(incomplete)}*"))] if named else []


def collections() -> Iterable[str]:
    """Of `equimd data list`."""
    from equimd.data import catalogue

    return catalogue.collections()


def _energy_units() -> Iterable[str]:
    from equimd.units import ENERGY_UNITS

    return ENERGY_UNITS


def _length_units() -> Iterable[str]:
    from equimd.units import LENGTH_UNITS

    return LENGTH_UNITS


def _force_units() -> Iterable[str]:
    return [f"{energy}/{length}" for energy in _energy_units() for length in _length_units()]


#: Of settings, by key, wherever they are options.
OF_SETTINGS: dict[str, Callable[[], Iterable[str]]] = {
    "calculator": lambda: ("gfn2", "gfn1", "emt"),
    "cheap": lambda: ("auto", "gfn2", "gfn1", "none"),
    "data": bundled,
    "device": lambda: ("auto", "cpu", "cuda"),
    "energy_unit": _energy_units,
    "force_unit": _force_units,
    "length_unit": _length_units,
    "starts": bundled,
    "test_data": bundled,
    "train_data": bundled,
    "uq_threshold": lambda: ("auto", "halt", "flag", "off"),
    "val_data": bundled,
}
