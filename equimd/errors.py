"""The errors equimd raises, each of which says what is wrong, where, and what to try.

Commands turn an :class:`EquimdError` into one message on stderr and its exit code, never a traceback.
"""

from __future__ import annotations

from typing import Any

EXIT_OK = 0
EXIT_MACHINE = 1
EXIT_USAGE = 2
EXIT_HALTED = 3
EXIT_INTERRUPTED = 130


#: What a shell makes of ``--data part*.h5`` is not what is meant.
SEVERAL_FILES = "several files: --data A --data B, a folder of them, or a pattern in quotes, --data 'part*.h5'"


class EquimdError(Exception):
    """Base of all errors that a user can act on.

    Args:
        what: what is wrong, with the value that is wrong.
        where: the file, frame, key or option it was found in.
        hint: what to try.
    """

    exit_code = EXIT_USAGE

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.hint is None else f"{text}\n  try: {self.hint}"


class DataError(EquimdError):
    """A data file or array that cannot be what it claims: missing, truncated, wrong shape, NaN."""


class UnitsError(DataError):
    """Units that are wrong (code ``units_mismatch``) or not to be inferred with confidence (``units_unknown``)."""

    code = "units_unknown"


class ConfigError(EquimdError):
    """A setting that is unknown, out of range or contradicts another one."""


class RunError(EquimdError):
    """A run folder or checkpoint that is missing, broken, newer than this version, or in use."""


class ModelError(EquimdError):
    """A structure the model cannot answer for, such as an element it never saw."""


class ConformanceError(EquimdError):
    """A model that breaks the contract of :mod:`equimd.model.interface`; ``where`` names the part."""


class UncertaintyError(EquimdError):
    """An uncertainty that cannot be had: a singular posterior, too few frames, a rate that so few runs cannot state."""


class MachineError(EquimdError):
    """The machine failed (disk, memory, network); what was written is intact."""

    exit_code = EXIT_MACHINE


class GuardError(EquimdError):
    """A frame that must not be taken as true: its score exceeds the threshold, or its atoms fused or flew apart.

    Args:
        code: ``not-finite``, ``fused``, ``apart`` or the name of the score.
        atoms: indices of those responsible.
        score, threshold: what was compared; NaN for numbers that are not finite.

    Attributes:
        structure: the frame (ASE ``Atoms``), with ``atom_score`` and ``responsible`` of each atom; None if not known.
        last_accepted: (n, 3) Angstrom, the last positions that passed; None if there were none.
        step: of the program that moves the atoms, whose forces were refused; None if not known.
    """

    exit_code = EXIT_HALTED
    structure: Any = None
    last_accepted: Any = None
    step: int | None = None

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        code: str = "",
        atoms: tuple[int, ...] = (),
        score: float = float("nan"),
        threshold: float = float("nan"),
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.code, self.atoms, self.score, self.threshold = code, atoms, score, threshold


class EquimdWarning(UserWarning):
    """What deserves a look but does not stop a task; commands print it on stderr."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a polite kill, after the work so far was saved.

    Args:
        text: what was reached, and how to go on.
        result: what the task would have returned, with status ``interrupted``.
    """

    def __init__(self, text: str, result: Any) -> None:
        super().__init__(text)
        self.result = result
