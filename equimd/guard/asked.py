"""The threshold that a person asks for, in words or as a force error, and the decision it stands for."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal, cast

from equimd.errors import ConfigError
from equimd.guard.saved import Mode

if TYPE_CHECKING:
    from equimd.guard.decision import StepDecision
    from equimd.guard.saved import Calibration

MODES = ("auto", "halt", "flag", "off")
UNIT = "eV/A"
_UNITS = ("", "ev/a", "ev/å", "ev/ang", "ev/angstrom")


def parse_threshold(text: str, name: str = "uq-threshold") -> str | float:
    """``auto``, ``halt``, ``flag``, ``off``, or a force error in eV/Angstrom.

    Args:
        name: of the option, for messages.

    Raises:
        ConfigError: another word, another unit, or a number that is not positive and finite.
    """
    word = text.strip().lower()
    if word in MODES:
        return word
    found = re.fullmatch(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)\s*([a-zåµ]\S*)?", word)
    hint = "auto, halt, flag, off, or a force error in eV/A such as 0.15eV/A"
    try:
        if found is None:
            raise ValueError
        value = float(found[1])
    except ValueError:
        raise ConfigError(f"{name} '{text}' is not a threshold", hint=hint) from None
    if (found[2] or "") not in _UNITS:
        raise ConfigError(f"{name} '{text}' is in {found[2]}, forces are in eV/A", hint=hint)
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} '{text}' is not a positive number", hint=hint)
    return value


def resolve(calibration: Calibration, mode: str | float) -> tuple[Mode | Literal["error"], StepDecision, float]:
    """What a parsed threshold other than ``off`` means for a calibration: kind, decision, threshold on its score.

    ``auto`` is the halt threshold if there is one, else the flag threshold.

    Raises:
        UncertaintyError: a threshold that was not calibrated.
    """
    if isinstance(mode, float):
        return "error", *calibration.error_decision(mode)
    if mode == "auto":
        mode = "flag" if calibration.halt is None else "halt"
    kind = cast(Mode, mode)
    return kind, *calibration.decision(kind)
