"""What a task says beside its result: notes by logging, which nobody sees unasked, warnings, and what it is at."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from types import FrameType

from equimd.errors import EquimdWarning

LOGGER = logging.getLogger("equimd")


def note(text: str) -> None:
    """Log what is good to know; commands print it on stderr, ``logging.basicConfig(level="INFO")`` shows it too."""
    LOGGER.info("%s", text)


_doing = ("", 0.0)


def doing(what: str) -> None:
    """What is done from now on, in a few words: a terminal shows it while no stage says how far it is."""
    global _doing
    _doing = (what, time.monotonic())


def at_work() -> tuple[str, float]:
    """What :func:`doing` said last, and when."""
    return _doing


def warn(text: str) -> None:
    """Warn, with the line outside equimd that asked for the work as the place."""
    warnings.warn(text, EquimdWarning, stacklevel=_outside())


def _outside() -> int:
    """The number of frames from :func:`warn` up to the first one outside this package."""
    package, level = __name__.split(".")[0], 2
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level
