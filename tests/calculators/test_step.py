"""The step that engines are made of: what the ASE calculator says, judged."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

import equimd
from equimd.errors import DataError, GuardError, ModelError, UncertaintyError
from tests.training.toy import WATER

from .conftest import Halted, moving


def test_values_are_those_of_ase(run: Path, halted: Halted) -> None:
    model = equimd.load(run)
    atoms, step = moving(), model.step(moving())
    atoms.calc = model.calculator()
    for number, positions in enumerate(halted.frames[::3]):
        given = positions.copy()
        found = step(given, number)
        atoms.positions = positions
        np.testing.assert_array_equal(given, positions)
        assert found.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)  # of 2000 eV, in float32
        np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-5)
        assert found.score is not None and 0 < found.score <= step.guard.threshold
    with pytest.raises(GuardError) as caught:
        step(halted.error.structure.positions, 17)
    assert step.halt is caught.value and caught.value.step == 17 and str(caught.value).startswith("step 17: ")
    assert caught.value.score == pytest.approx(halted.error.score, rel=1e-3)
    np.testing.assert_array_equal(caught.value.last_accepted, halted.frames[::3][-1])


def test_what_is_not_asked_for(runs: dict[str, Path], halted: Halted) -> None:
    plain = equimd.load(runs["plain"])
    with pytest.raises(UncertaintyError, match="calibrat"):
        plain.step(moving())
    ignoring = plain.step(moving(), on_exceed="ignore")
    assert ignoring(halted.error.structure.positions).score is None
    watching = plain.step(moving(), threshold="off")
    with pytest.raises(GuardError) as caught:
        watching(np.where(np.arange(3)[:, None] == 1, WATER[0] + [0.2, 0, 0], WATER))
    assert caught.value.code == "fused" and caught.value.step is None
    with pytest.raises(GuardError, match="not finite"):
        watching(np.full((3, 3), np.nan))
    with pytest.raises(DataError, match="these 3 atoms"):
        watching(WATER[:2])
    with pytest.raises(ModelError, match="never saw"):
        plain.step(Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]), threshold="off")


def test_flags_are_told_once_an_event(run: Path, halted: Halted) -> None:
    step = equimd.load(run).step(moving(), on_exceed="flag")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for number in range(3):
            found = step(halted.error.structure.positions, number)
    assert found.score == pytest.approx(halted.error.score, rel=1e-3) and step.halt is None
    assert [str(w.message).split(":")[0] for w in told] == ["step 0"]
    assert "flag" in repr(step) and f"{step.guard.threshold:.4g}" in repr(step)
