"""How inputs are spoiled: bytes without knowing what they mean, and the lines, words and numbers of text."""

from __future__ import annotations

import random
import re

#: What to write where a word or a number was.
TOKENS = (
    "", "0", "-1", "1", "2", "3.5", "nan", "NaN", "inf", "-inf", "1e400", "-1e308", "1e-320", "99999999999999999999",
    "2147483648", "-9223372036854775809", "T", "F", "None", "null", "true", "X", "D", "Uuo", "H-1", "å", "\u2028", "\0",
    "1.0D-3", "1_000", "0x10", "[1,2]", "{}", "{", "[", '"', "'", '"1 2 3"', "=", "==", ",", ":", "::", "#", "%s", "\\",
    "\t", "\r", "a" * 3000, "__ndarray__", "O8", "<f8", "|O", "../..", "/dev/zero", "pbc", "Lattice", "Properties",
    "energy", "forces", "charge", "spin", "species:S:1:pos:R:3", "pos:R:1000000", "_JSON {}",
)  # fmt: skip


def spoil(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One to eight changes of bytes; ``others`` are inputs to splice with."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        out = _spoil_once(out, rng, others)
    return bytes(out)


def _spoil_once(out: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    if not out:
        return bytearray(rng.randbytes(rng.randrange(64)))
    at, how = rng.randrange(len(out)), rng.randrange(11)
    if rng.random() < 0.4:  # headers matter more than what follows
        at = min(at, rng.randrange(min(len(out), 512)))
    size = rng.choice((1, 2, 4, 8, 64, 512))
    if how == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        out[at] = rng.randrange(256)
    elif how == 2:
        out[at : at + size] = rng.randbytes(size)
    elif how == 3:
        out[at : at + size] = bytes(size)
    elif how == 4:
        out[at : at + size] = b"\xff" * size
    elif how == 5:
        del out[at:]
    elif how == 6:
        del out[at : at + size]
    elif how == 7:
        out[at:at] = rng.randbytes(size)
    elif how == 8:
        out[at:at] = out[at : at + size]
    elif how == 9:
        other = rng.choice(others)
        out[at:] = other[rng.randrange(len(other) + 1) :]
    else:
        number = rng.choice((0, 1, -1, 2**31, 2**32 - 1, 2**63 - 1, 10**12, rng.randrange(2**16)))
        width = rng.choice((2, 4, 8))
        out[at : at + width] = (number % (1 << (8 * width))).to_bytes(width, rng.choice(("little", "big")))
    return out


def spoil_text(text: str, rng: random.Random) -> str:
    """One to six changes of lines, words or numbers."""
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        text = _spoil_text_once(text, rng)
    return text


def _spoil_text_once(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    k, how = rng.randrange(len(lines)), rng.randrange(9)
    if how == 0:
        del lines[k]
    elif how == 1:
        lines.insert(k, rng.choice(lines))
    elif how == 2:
        lines.insert(k, rng.choice(("", " ", *TOKENS)))
    elif how == 3:
        other = rng.randrange(len(lines))
        lines[k], lines[other] = lines[other], lines[k]
    elif how == 4:
        lines = lines[: k + 1]
        lines[k] = lines[k][: rng.randrange(len(lines[k]) + 1)]
    elif how == 5:
        lines[k] = lines[k].swapcase()
    else:  # a word, or a number within one, most often of the first lines
        k = min(k, rng.randrange(len(lines)))
        words = list(re.finditer(r"[^\s=:\",]+", lines[k]))
        if words:
            word = rng.choice(words)
            lines[k] = lines[k][: word.start()] + rng.choice(TOKENS) + lines[k][word.end() :]
    return "\n".join(lines)


def spoil_value(value: object, rng: random.Random, depth: int = 0) -> object:
    """A JSON value with something else in one place."""
    if depth < 6 and isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value, key=str))
        changed = dict(value)
        if rng.random() < 0.2:
            del changed[key]
        else:
            changed[key] = spoil_value(value[key], rng, depth + 1)
        return changed
    if depth < 6 and isinstance(value, list) and value and rng.random() < 0.8:
        changed_list = list(value)
        at = rng.randrange(len(value))
        changed_list[at] = spoil_value(value[at], rng, depth + 1)
        return changed_list if rng.random() < 0.9 else changed_list[:at]
    junk: list[object] = [
        None,
        True,
        -1,
        0.5,
        1e19,
        10**30,
        float("nan"),
        "",
        "x" * 100,
        [],
        {},
        [[1], 2],
        {"a": 1},
        "1",
    ]
    return rng.choice(junk)
