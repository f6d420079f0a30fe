"""Names of elements and formulas as files and messages have them; the refusal of atoms that a model cannot treat."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np

from equimd.errors import DataError, EquimdError, ModelError

#: Isotopes with a symbol of their own, amu (AME2020).
ISOTOPES = {"D": (1, 2.014101778), "T": (1, 3.016049281)}
#: What programs call sites without a nucleus.
DUMMIES = ("x", "xx", "du", "bq", "gh", "lp")
MAX_NUMBER = 118


def symbols(elements: Iterable[int]) -> str:
    """``H, C, O``: elements by rising atomic number."""
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[z] for z in sorted({int(z) for z in elements}))


def refuse_unseen(
    elements: Iterable[int],
    known: Iterable[int],
    *,
    what: str = "elements the model never saw",
    hint: str = "it knows",
    where: str | None = None,
    error: type[EquimdError] = ModelError,
) -> None:
    """Raise ``error`` if some elements are not among those known: ``what: N``, with what is known as the hint.

    Where none are known, the model takes all, and nothing is refused.
    """
    known = set(known)
    unseen = {int(z) for z in elements} - known
    if known and unseen:
        raise error(f"{what}: {symbols(unseen)}", where=where, hint=f"{hint} {symbols(known)}")


def formula(numbers: np.ndarray) -> str:
    """Chemical formula in Hill order, such as C2H6O."""
    from ase.data import chemical_symbols

    counts = {chemical_symbols[z]: int(c) for z, c in zip(*np.unique(numbers, return_counts=True), strict=True)}
    first = ["C", "H"] if "C" in counts else []
    order = [s for s in first if s in counts] + sorted(s for s in counts if s not in first)
    return "".join(s + (str(counts[s]) if counts[s] > 1 else "") for s in order)


@cache
def _numbers() -> dict[str, int]:
    from ase.data import atomic_numbers

    return {symbol: z for symbol, z in atomic_numbers.items() if 0 < z <= MAX_NUMBER}


def element(word: str, *, where: str) -> tuple[int, float | None]:
    """Atomic number of a symbol (in any case) or of a number written out, and the mass of an isotope (D, T), else None.

    Raises:
        DataError: a dummy atom, or no element.
    """
    symbol = word.strip()
    symbol = symbol[:1].upper() + symbol[1:].lower()
    z = _numbers().get(symbol)
    if z is not None:
        return z, None
    if symbol in ISOTOPES:
        return ISOTOPES[symbol]
    if symbol.isascii() and symbol.isdigit() and 0 < int(symbol) <= MAX_NUMBER:
        return int(symbol), None
    if symbol.lower() in DUMMIES or symbol.lower().startswith(("bq", "gh-", "x-")) or symbol == "0":
        raise DataError(
            f"'{word}' is a dummy atom, which has no forces", where=where, hint="remove it from the structure"
        )
    raise DataError(
        f"'{word[:20]}' is no element", where=where, hint="element symbols (H, C, D, ...) or atomic numbers"
    )


def refuse_dummies(numbers: np.ndarray, where: str) -> None:
    """Raise DataError where an atom of a structure has the atomic number 0, as ASE's ``X`` has."""
    dummy = np.flatnonzero(np.asarray(numbers) == 0)
    if dummy.size:
        raise DataError(
            f"atom {dummy[0]} is X, a dummy atom, which has no forces",
            where=where,
            hint="remove it from the structure",
        )
