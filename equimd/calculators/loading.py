"""``equimd.load``: the model of a run folder, which predicts and makes calculators."""

from __future__ import annotations

from pathlib import Path

from equimd.calculators.ase import EquimdCalculator
from equimd.calculators.guarded import OnExceed
from equimd.calculators.predictor import Predictor, Wanted


class LoadedModel(Predictor):
    """A model ready for use; ``equimd.load`` makes one. The arguments are those of :class:`Predictor`."""

    def calculator(
        self,
        *,
        uncertainty: Wanted = "auto",
        on_exceed: OnExceed = "ignore",
        threshold: str | float = "auto",
        charge: int | None = None,
        spin: int | None = None,
    ) -> EquimdCalculator:
        """An ASE calculator of this model; the arguments are those of :class:`EquimdCalculator`."""
        return EquimdCalculator(
            self, uncertainty=uncertainty, on_exceed=on_exceed, threshold=threshold, charge=charge, spin=spin
        )


def load(run: str | Path, *, which: str = "best", device: str = "cpu") -> LoadedModel:
    """The model of a run folder.

    Args:
        which: ``best`` weights by validation, or the ``last`` ones.
        device: ``cpu``, ``cuda`` ...

    Raises:
        RunError: no such run, or it is damaged or newer than this equimd.
    """
    return LoadedModel.open(run, which=which, device=device)
