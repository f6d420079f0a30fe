"""Recorded values and today's: what differs, and by how much."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ANSWERS = Path(__file__).parent / "answers"
NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:e[-+]?\d+)?", re.IGNORECASE)
FEW = 12  # numbers that are written into the JSON
INNERMOST = re.compile(r"\[[^\[\]{}]*\]")  # lists of plain values, for one line each
WHOLE = re.compile(r"[-+]?\d+")


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from the recorded one: ``rel`` of its scale, or ``floor`` whatever its scale.

    The scale of an array, or of a list of three or more numbers, is how far it spreads about its median, so that
    total energies are not compared relative to the energies of the isolated atoms; that of one or two numbers is their
    size.
    """

    rel: float
    floor: float = 1e-9

    def of(self, key: str) -> Tolerance:
        """That of the value under a key."""
        more = CANCELLING.get(key)
        return self if more is None else Tolerance(max(self.rel, more.rel), max(self.floor, more.floor))

    def takes(self, then: np.ndarray, now: np.ndarray) -> tuple[bool, float, float]:
        """Whether they are near enough, by how much they differ, and the scale of that."""
        off = float(np.abs(then - now).max())
        size = float(np.abs(then).max())
        scale = size if then.size < 3 else max(float(np.abs(then - np.median(then)).max()), 1e-6 * size)
        return off <= max(self.rel * scale, self.floor), off, scale


#: What cancellation leaves few digits of: sums that should vanish, differences of nearly equal numbers, fits to few
#: points.
CANCELLING = {
    "drift_meV_per_atom_per_ps": Tolerance(1e-2, 1e-2), "drift_error": Tolerance(1e-2, 1e-2),
    "net_force_meV_per_A": Tolerance(1e-2, 1e-2), "torque_meV": Tolerance(1e-2, 1e-2),
    "comparison": Tolerance(5e-2, 5e-2),  # bootstrap intervals of differences between fits
    "net_torque_max_eV": Tolerance(1e-2, 1e-6), "net_force_max_eV_per_A": Tolerance(1e-2, 1e-6),
}  # fmt: skip


def compare(then: Any, now: Any, near: Tolerance, where: str = "", found: list[str] | None = None) -> list[str]:
    """Sentences on what differs between two values: numbers by more than ``near``, all else at all."""
    found = [] if found is None else found
    if isinstance(then, dict) and isinstance(now, dict):
        if set(then) != set(now):
            gone, new = sorted(set(then) - set(now)), sorted(set(now) - set(then))
            found.append(f"{where}: gone {gone}, new {new}")
        for key in [k for k in then if k in now]:
            compare(then[key], now[key], near.of(key), f"{where}/{key}", found)
    elif _is_array(then) and _is_array(now):
        _arrays(np.asarray(then), np.asarray(now), near, where, found)
    elif isinstance(then, list) and isinstance(now, list):
        if len(then) != len(now):
            found.append(f"{where}: {len(then)} entries, now {len(now)}: {_short(then)} | {_short(now)}")
        for k, (a, b) in enumerate(zip(then, now, strict=False)):
            compare(a, b, near, f"{where}[{k}]", found)
    elif isinstance(then, str) and isinstance(now, str):
        if not _same_text(then, now, near):
            found.append(f"{where}: '{_short(then)}', now '{_short(now)}'")
    elif isinstance(then, float) and isinstance(now, float):
        _arrays(np.array([then]), np.array([now]), near, where, found)
    elif then != now or type(then) is not type(now):
        found.append(f"{where}: {_short(then)}, now {_short(now)}")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_array(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return True
    numbers = isinstance(value, list) and len(value) > 2 and all(_is_number(v) for v in value)
    return numbers and any(isinstance(v, float) for v in value)


def _arrays(then: np.ndarray, now: np.ndarray, near: Tolerance, where: str, found: list[str]) -> None:
    if then.shape != now.shape or (then.dtype.kind == "f") != (now.dtype.kind == "f"):
        found.append(f"{where}: {then.dtype} {then.shape}, now {now.dtype} {now.shape}")
    elif then.dtype.kind != "f":
        if not np.array_equal(then, now):
            found.append(f"{where}: {then.tolist()}, now {now.tolist()}")
    elif not np.array_equal(*(np.where(np.isfinite(x), 0.0, x) for x in (then, now)), equal_nan=True):
        found.append(f"{where}: other entries are NaN or infinite")
    elif np.isfinite(then).any():
        known = np.isfinite(then)
        fine, off, scale = near.takes(then[known].astype(np.float64), now[known].astype(np.float64))
        if not fine:
            found.append(f"{where}: off by {off:.3g} at a scale of {scale:.3g}, {off / max(scale, 1e-300):.1e} of it")


def _same_text(a: str, b: str, near: Tolerance) -> bool:
    """Texts whose words are equal, and whose decimal numbers are to the last digit that is shown."""
    if a == b:
        return True
    if NUMBER.sub("#", a).split() != NUMBER.sub("#", b).split():
        return False
    pairs = zip(NUMBER.findall(a), NUMBER.findall(b), strict=True)
    return all(x == y or (not (WHOLE.fullmatch(x) or WHOLE.fullmatch(y)) and _digits(x, y, near)) for x, y in pairs)


def _digits(x: str, y: str, near: Tolerance) -> bool:
    """Whether two printed numbers may be one number rounded twice."""
    mantissa, _, exponent = x.lower().partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(x) - float(y)) <= 1.01 * unit + max(near.rel * abs(float(x)), near.floor)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 300 else text[:300] + " ..."


def save(name: str, value: Any, folder: Path = ANSWERS) -> None:
    """``NAME.json``, and its arrays in ``NAME.npz``."""
    arrays: dict[str, np.ndarray] = {}
    plain = _plain(value, arrays)
    folder.mkdir(exist_ok=True)
    text = INNERMOST.sub(lambda m: re.sub(r"\n *", " ", m[0]), json.dumps(plain, indent=1))
    (folder / f"{name}.json").write_text(text + "\n")
    (folder / f"{name}.npz").unlink(missing_ok=True)
    if arrays:
        np.savez_compressed(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]


def load(name: str, folder: Path = ANSWERS) -> Any:
    """Undo :func:`save`."""
    path = folder / f"{name}.npz"
    arrays = dict(np.load(path)) if path.is_file() else {}
    return _filled(json.loads((folder / f"{name}.json").read_text()), arrays)


def settled(value: Any) -> Any:
    """A value as it would come back from the record: tuples are lists, keys are text."""
    arrays: dict[str, np.ndarray] = {}
    return _filled(json.loads(json.dumps(_plain(value, arrays))), arrays)


def _plain(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v, arrays) for k, v in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > FEW and all(_is_number(v) for v in value):
            return _plain(np.array(value), arrays)
        return [_plain(v, arrays) for v in value]
    if isinstance(value, np.ndarray) and value.dtype.kind not in "fiub":
        return [str(v) for v in value.ravel()]
    if isinstance(value, np.ndarray) and value.size > FEW:
        key = f"a{len(arrays)}"
        arrays[key] = value
        return {"array": key}
    if isinstance(value, np.ndarray):
        return {"small": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, np.generic):
        return value.item()
    return float(f"{value:.10g}") if isinstance(value, float) else value


def _filled(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"array"}:
            return arrays[value["array"]]
        if set(value) == {"small", "dtype"}:
            return np.array(value["small"], dtype=value["dtype"])
        return {k: _filled(v, arrays) for k, v in value.items()}
    return [_filled(v, arrays) for v in value] if isinstance(value, list) else value
