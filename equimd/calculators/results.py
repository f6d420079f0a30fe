"""What the ASE calculator computed, with the uncertainties that ASE knows nothing of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.outputs import Properties

from equimd.shown import Shown

#: Properties of calibrated runs.
SIGMAS = ("energy_std", "forces_std", "atom_forces_std")


@dataclass(frozen=True, repr=False)
class StepSigma(Shown):
    """The decision about one structure of n atoms, as cheap as it can be had.

    Attributes:
        energy_std: eV.
        score: eV/Angstrom: the screen where that clears the structure, else the largest of ``atom_forces_std``.
        threshold: what the score was compared with. exceeded: whether it does; a score that is no number does, too.
        atom_forces_std: (n,) eV/Angstrom; None where the screen cleared the structure.
        atom: the least certain one; None without ``atom_forces_std``.
    """

    energy_std: float
    score: float
    threshold: float
    exceeded: bool
    atom_forces_std: np.ndarray | None
    atom: int | None


class Results(dict[str, Any]):
    """What was computed. ``keys``, ``items``, ``**`` and copies have what ASE knows, which allows nothing
    else; ``in``, ``[...]``, ``get`` and iteration find uncertainties, too.

    Attributes:
        sigmas: the uncertainties that were computed.
    """

    def __init__(self, **properties: Any) -> None:
        super().__init__(**properties)
        self.sigmas: dict[str, Any] = {}

    def __missing__(self, name: str) -> Any:
        return self.sigmas[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.keys(), *self.sigmas))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.sigmas

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, self.sigmas.get(name, default))


class Outputs(Properties):
    """ASE's properties and uncertainties, of which ASE knows nothing."""

    def _setvalue(self, name: str, value: Any) -> None:
        if name in SIGMAS:
            self._dct[name] = value
        else:
            super()._setvalue(name, value)
