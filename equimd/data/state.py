"""The electronic state of a structure, total charge and multiplicity, as files and programs state it.

The one reader of it, for data files, ASE's ``Atoms.info``, calculators, i-PI and commands. What is not stated stays not
stated; what is stated must be a whole number, for a model trained on several states would answer for another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from equimd.errors import DataError

#: Names under which the total charge and the multiplicity stand, in any case; two that differ are refused.
CHARGE_KEYS = ("charge", "total_charge", "total_charge_e")
SPIN_KEYS = ("spin", "multiplicity", "spin_multiplicity")
#: Charges and multiplicities beyond these are none of a structure that a model could be asked about.
MAX_CHARGE, MAX_SPIN = 1000, 1000


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
    array = np.asarray(value)
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
