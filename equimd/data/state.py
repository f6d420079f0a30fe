"""The electronic state of a structure, total charge and multiplicity, as files and programs state it.

The one reader of it, for data files, ASE's ``Atoms.info``, calculators, i-PI and commands. What is not stated stays not
stated; what is stated must be a whole number, for a model trained on several states would answer for another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from equimd.errors import DataError, EquimdError, ModelError

#: Names under which the total charge and the multiplicity stand, in any case; two that differ are refused.
CHARGE_KEYS = ("charge", "total_charge", "total_charge_e")
SPIN_KEYS = ("spin", "multiplicity", "spin_multiplicity")
#: Charges and multiplicities beyond these are none of a structure that a model could be asked about.
MAX_CHARGE, MAX_SPIN = 1000, 1000


#: Charge (None: not stated) and multiplicity (0: not stated) of frames.
States = Iterable[tuple[int | None, int]]


class State(NamedTuple):
    """Total charge in e (0 where it is not stated), multiplicity 2S+1 (0: not stated), whether a charge is stated."""

    charge: int
    spin: int
    charge_stated: bool


def read_state(info: Mapping[str, Any], *, where: str) -> State:
    """The state that ``info`` states, under any of ``CHARGE_KEYS`` and ``SPIN_KEYS``.

    Args:
        info: keys and values of one structure, such as ``Atoms.info``.
        where: file and frame, for the message.

    Raises:
        DataError: a value that is no whole number (0.5, True, None, NaN, text) or out of range, or two that differ.
    """
    charge, spin = _stated(info, CHARGE_KEYS, where), _stated(info, SPIN_KEYS, where)
    return State(charge or 0, spin or 0, charge is not None)


def contradiction(name: str, told: int, own: int, where: str) -> DataError:
    """The error that a structure states another charge or multiplicity than is told for its whole file."""
    hint = f"leave --{name} out, or state it in the frames alone"
    return DataError(f"{name} {told} is told for all, and {own} is stated here", where=where, hint=hint)


def refuse_unknown(
    asked: States,
    known: States,
    *,
    seen: bool,
    what: str = "states the model never saw",
    hint: str = "it knows",
    where: str | None = None,
    error: type[EquimdError] = ModelError,
) -> None:
    """Raise ``error`` if some states are not among those of the training; where none are recorded, all are taken.

    Args:
        seen: the model sees the state, so that what it was told in training has to be told now. One that does not
            answers for the state of its training frames: what is not stated is taken for that.
    """
    known = sorted(set(known), key=lambda s: (s[0] or 0, s[1]))

    def answered(q: int | None, m: int) -> bool:
        if seen:
            return any((c == q or (c is None and q == 0)) and n == m for c, n in known)
        return any((q is None or c in (None, q)) and (m == 0 or n in (0, m)) for c, n in known)

    unknown = [state for state in sorted(set(asked), key=str) if known and not answered(*state)]
    if not unknown:
        return
    listed = "; ".join(in_words(*s) for s in known[:12]) + ("; ..." if len(known) > 12 else "")
    q, m = unknown[0]
    lacking = [
        name
        for name, absent, told in (
            ("charge", q is None, any(c is not None for c, _ in known)),
            ("multiplicity", m == 0, any(n for _, n in known)),
        )
        if absent and told
    ]
    if seen and lacking:
        raise error(
            f"{' and '.join(lacking)} of a structure {'are' if len(lacking) > 1 else 'is'} not stated", where=where,
            hint=f"--charge and --spin for a file, or charge=0 spin=1 of a frame (atoms.info); {hint} {listed}",
        )  # fmt: skip
    raise error(f"{what}: {'; '.join(in_words(*s) for s in unknown[:5])}", where=where, hint=f"{hint} {listed}")


def in_words(charge: int | None, spin: int) -> str:
    """``charge -1, spin 2``; what is not stated is left out."""
    told = [f"charge {charge}"] if charge is not None else []
    return ", ".join([*told, f"spin {spin}"] if spin else told) or "none stated"


def joined(states: States, where: str | None) -> tuple[tuple[int | None, int], ...]:
    """The states of frames that are learned together, in order.

    Raises:
        DataError: they differ, and some frames state what others leave open.
    """
    found = sorted(set(states), key=lambda s: (s[0] is not None, s[0] or 0, s[1]))
    if len({(q or 0, m) for q, m in found}) == 1:
        return (found[-1],)
    if len({q is None for q, _ in found}) > 1 or len({m == 0 for _, m in found}) > 1:
        raise DataError(
            "the frames mix charges or multiplicities, and some state none, so that they cannot be told apart",
            where=where,
            hint="state charge and spin of every frame (--charge and --spin for those that state none), or train on "
            "frames of one electronic state",
        )
    return tuple(found)


def _stated(info: Mapping[str, Any], keys: tuple[str, ...], where: str) -> int | None:
    found = {name: whole_number(name, value, where) for name, value in info.items() if str(name).lower() in keys}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} is '{value}'" for name, value in found.items())
        raise DataError(f"two statements of one thing differ: {listed}", where=where, hint="remove the wrong one")
    return next(iter(found.values()), None)


def whole_number(name: str, value: Any, where: str) -> int:
    """``value``, a charge or a multiplicity (0: not stated), as an integer.

    Raises:
        DataError: it is none.
    """
    spin = str(name).lower() in SPIN_KEYS
    least, most = (0, MAX_SPIN) if spin else (-MAX_CHARGE, MAX_CHARGE)
    try:
        array = np.asarray(value)
    except ValueError:  # lists of lists
        array = np.asarray(None)
    usable = array.size == 1 and array.dtype.kind in "iuf"
    number = float(array.reshape(-1)[0]) if usable else float("nan")
    if number.is_integer() and least <= number <= most:
        return int(number)
    shown = str(value)[:60]
    meaning = "the multiplicity 2S+1, a whole number from 1" if spin else "a whole number of elementary charges"
    raise DataError(
        f"{name} is '{shown}', expected {meaning}", where=where, hint="correct it, or remove the key: not stated"
    )


def whole_numbers(name: str, values: np.ndarray, where: str) -> np.ndarray:
    """:func:`whole_number` of an array of charges or multiplicities, int64 of the same shape.

    Raises:
        DataError: one is none; ``where`` is completed with its frame.
    """
    array = np.asarray(values)
    if array.dtype.kind in "iuf":
        limit = MAX_SPIN if name.lower() in SPIN_KEYS else MAX_CHARGE
        least = 0 if name.lower() in SPIN_KEYS else -MAX_CHARGE
        with np.errstate(invalid="ignore"):
            good = (array == np.rint(array)) & (array >= least) & (array <= limit)
        if good.all():
            return array.astype(np.int64)
        bad = int(np.argmin(good.reshape(-1)))
    else:
        bad = 0
    flat = array.reshape(-1)
    whole_number(name, flat[bad].item() if flat.size else None, f"{where}, frame {bad}" if flat.size > 1 else where)
    raise DataError(f"{name} holds what is no whole number", where=where)  # numbers stored as objects or text
