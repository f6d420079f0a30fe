"""Formulas, names of elements, and the one refusal of elements that a model does not know."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from equimd.chemistry import formula, refuse_unseen, symbols
from equimd.errors import DataError, ModelError


@pytest.mark.parametrize("text", ["C2H6O", "CH4", "ClNa", "C6H5Br", "H2O", "HHe", "U", "CuO4S"])
def test_formulas_are_in_hill_order(text: str) -> None:
    atoms = Atoms(text)
    shuffled = np.random.default_rng(0).permutation(atoms.numbers)
    assert formula(shuffled) == atoms.get_chemical_formula("hill") == text


def test_elements_are_named_once_by_rising_number() -> None:
    assert symbols(np.array([8, 1, 6, 1])) == "H, C, O"


def test_unseen_elements_are_refused_with_those_known() -> None:
    refuse_unseen([1, 8], (1, 6, 8))
    refuse_unseen([1, 8], ())  # a model that names no elements takes all
    with pytest.raises(ModelError) as caught:
        refuse_unseen(np.array([1, 7, 17, 7]), (8, 1), where="a.xyz")
    assert str(caught.value) == "a.xyz: elements the model never saw: N, Cl\n  try: it knows H, O"
    with pytest.raises(DataError, match="elements that run/a never saw: C"):
        refuse_unseen([6], [1], what="elements that run/a never saw", error=DataError)
