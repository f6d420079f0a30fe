"""What TAB offers for options that take some names and more: the names. Options of a fixed choice need none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Completion = Callable[[str], list[str]]


def completing(names: Callable[[], Iterable[str]]) -> Completion:
    """TAB among ``names``, which are asked for only then; typer's ``autocompletion``."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.lower().startswith(incomplete.lower())]

    return complete


def presets() -> Iterable[str]:
    """Of `equimd train`."""
    from equimd.config import PRESETS

    return PRESETS


def bundled() -> Iterable[str]:
    """Data that comes with equimd; the shell itself offers files where none of it fits."""
    from equimd.data.bundled import NAMES

    return [f"bundled:{name}" for name in NAMES]


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
