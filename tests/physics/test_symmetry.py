"""Rotations, reflections, translations and permutations: energies and features stay, forces go along."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from e3nn import o3

from equimd.model.painn.graph import edge_graph


def rotation(seed: int = 0, *, improper: bool = False) -> np.ndarray:
    """A random orthogonal matrix of determinant +1, or -1."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q)) * (-1 if improper else 1)


def harmonics(ell: int, vectors: torch.Tensor) -> torch.Tensor:
    return o3.spherical_harmonics(ell, vectors, normalize=True, normalization="norm")


def irrep_matrix(ell: int, matrix: np.ndarray) -> torch.Tensor:
    """D with Y(Q r) = D Y(r), in float64: the matrix of the irrep of spherical harmonics under Q.

    e3nn's own ``D_from_matrix`` is right to single precision only, whatever the precision of its argument.
    """
    r = torch.from_numpy(np.random.default_rng(9).normal(size=(40, 3)))
    q = torch.from_numpy(matrix)
    return torch.linalg.lstsq(harmonics(ell, r), harmonics(ell, r @ q.T)).solution.T


def transformed(frames, matrix: np.ndarray):
    return replace(frames, positions=frames.positions @ matrix.T)


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_forces_turn_with_the_molecule(case, make_frames, improper) -> None:
    frames, matrix = make_frames(7, 5), rotation(improper=improper)
    before, after = case(frames), case(transformed(frames, matrix))
    case.same(after["energy"], before["energy"], case.tolerances.symmetry)
    case.same(after["features"], before["features"], case.tolerances.symmetry)
    turned = before["forces"] @ torch.from_numpy(matrix.T).to(before["forces"])
    assert turned.abs().max() > 0.05
    case.same(after["forces"], turned, case.tolerances.symmetry)


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
@pytest.mark.parametrize("ell_max", [1, 2, 3])
def test_tensor_features_turn_with_their_own_matrix(dtype, make_case, make_frames, ell_max, improper) -> None:
    case = make_case(dtype, "direct", ell_max)
    matrix = rotation(1, improper=improper)
    frames = make_frames(6)

    def features(frames):
        batch = case.batch(frames, "torch")
        graph = edge_graph(batch.positions, batch.edge_index, None)
        layers, v = case.model.backbone(batch.atomic_numbers, graph)
        return layers[-1], v

    with torch.no_grad():
        (s, v), (s2, v2) = features(frames), features(transformed(frames, matrix))
    case.same(s2, s, case.tolerances.symmetry)
    assert len(v) == ell_max
    for ell, (x, y) in enumerate(zip(v, v2, strict=True), start=1):
        d = irrep_matrix(ell, matrix).to(x.dtype)
        assert x.abs().max() > 1e-2
        case.same(y, torch.einsum("ab,nbf->naf", d, x), case.tolerances.symmetry)


def test_vector_features_under_the_direct_head_turn(dtype, make_case, make_frames) -> None:
    case, frames, matrix = make_case(dtype, "direct"), make_frames(6), rotation(2)

    def vectors(frames):
        from equimd.model.painn.potential import batch_arguments

        batch = case.batch(frames)
        return case.model.network(batch.positions, **batch_arguments(batch)).vectors.detach()

    before, after = vectors(frames), vectors(transformed(frames, matrix))
    turned = torch.einsum("ab,nbc->nac", torch.from_numpy(matrix).to(before), before)
    case.same(after, turned, case.tolerances.symmetry)


E3NN_MATRIX = 1e-6  # error of e3nn's D_from_matrix


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_components_of_e3nn_vectors_are_x_y_z(improper) -> None:
    matrix = rotation(3, improper=improper)
    given = torch.from_numpy(matrix)
    torch.testing.assert_close(o3.Irrep("1o").D_from_matrix(given), given, rtol=0, atol=E3NN_MATRIX)
    torch.testing.assert_close(irrep_matrix(1, matrix), given, rtol=0, atol=1e-12)
    r = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(harmonics(1, r), r / r.norm(dim=1, keepdim=True), rtol=0, atol=1e-14)


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_irreps_of_the_features_are_those_of_spherical_harmonics(improper) -> None:
    matrix = rotation(4, improper=improper)
    for ell in (1, 2, 3):
        d = o3.Irrep(ell, (-1) ** ell).D_from_matrix(torch.from_numpy(matrix)).double()
        torch.testing.assert_close(d, irrep_matrix(ell, matrix), rtol=0, atol=E3NN_MATRIX)


def test_translation_changes_nothing(case, make_frames) -> None:
    frames = make_frames(7, 5)
    before = case(frames)
    after = case(replace(frames, positions=frames.positions + np.array([3.0, -7.0, 11.0])))
    for key in ("energy", "features", "forces"):
        case.same(after[key], before[key], case.tolerances.symmetry)


def test_permutation_of_atoms_permutes_the_forces(case, make_frames) -> None:
    frames = make_frames(8)
    order = np.random.default_rng(4).permutation(8)
    before = case(frames)
    after = case(replace(frames, positions=frames.positions[:, order], numbers=frames.numbers[:, order]))
    case.same(after["energy"], before["energy"])
    case.same(after["features"], before["features"])
    case.same(after["forces"], before["forces"][torch.from_numpy(order)])
