"""Names of elements and formulas, and the refusal of elements that a model does not know."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from equimd.errors import EquimdError, ModelError


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
