"""What a model says with its posterior: symmetry, independence of the batch, cheap scores, the saved state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equimd.benchmarks.calibration.costs import directions_of, explained, low_rank_scores
from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.errors import UncertaintyError
from equimd.uq.laplace import fit_last_layers
from equimd.uq.posterior import FeatureDistance, LastLayer, Posterior


@pytest.fixture
def layer(model, dataset) -> LastLayer:
    return fit_last_layers(model, dataset)[0]


def test_force_covariance_turns_with_the_molecule(model, layer, frames, to_batch, rotation) -> None:
    turned = Frames(**{**vars(frames), "positions": frames.positions @ rotation.T})
    plain, other = (layer.raw(model, to_batch(f)) for f in (frames, turned))
    q = torch.from_numpy(rotation)
    largest = float(plain.force_covariance.abs().max())
    expected = q @ plain.force_covariance @ q.T
    torch.testing.assert_close(other.force_covariance, expected, rtol=0, atol=1e-10 * largest)
    torch.testing.assert_close(other.force_variance, plain.force_variance, rtol=0, atol=1e-10 * largest)
    torch.testing.assert_close(other.energy_variance, plain.energy_variance, rtol=1e-9, atol=0)
    torch.testing.assert_close(other.distance, plain.distance, rtol=1e-8, atol=0)


def test_scores_do_not_turn(model, layer, frames, to_batch, rotation) -> None:
    turned = Frames(**{**vars(frames), "positions": frames.positions @ rotation.T})
    directions = directions_of(layer.forces, 3)
    a, b = (low_rank_scores(layer, model, to_batch(f), directions) for f in (frames, turned))
    torch.testing.assert_close(a[2], b[2], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(a[0], b[0], rtol=1e-9, atol=0)


def test_structures_of_a_batch_do_not_see_each_other(model, layer, frames, to_batch) -> None:
    together = layer.raw(model, to_batch(frames))
    blocks = to_batch(frames).unpad(together.force_covariance)
    for k in (5, 0, 3):
        for layout in ("auto", "vesin"):
            alone = layer.raw(model, to_batch(frames.take([k]), layout))
            torch.testing.assert_close(alone.force_covariance, blocks[k], rtol=1e-9, atol=1e-13)
            torch.testing.assert_close(alone.energy_variance[0], together.energy_variance[k], rtol=1e-9, atol=0)
            torch.testing.assert_close(alone.distance[0], together.distance[k], rtol=1e-9, atol=0)


def test_all_directions_are_the_whole_variance(model, layer, frames, to_batch) -> None:
    batch = to_batch(frames)
    raw = layer.raw(model, batch)
    every = directions_of(layer.forces, layer.forces.width)
    energy_std, distance, force_std = low_rank_scores(layer, model, batch, every)
    torch.testing.assert_close(force_std**2, 3 * raw.force_variance, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(energy_std**2, raw.energy_variance)
    torch.testing.assert_close(distance, raw.distance)
    assert explained(layer.forces, every) == pytest.approx(1.0)


def test_fewer_directions_are_a_part_and_samples_the_whole_on_average(model, layer, frames, to_batch) -> None:
    batch = to_batch(frames)
    whole = 3 * layer.raw(model, batch).force_variance
    shares = [explained(layer.forces, directions_of(layer.forces, k)) for k in (1, 4, 8)]
    assert 0 < shares[0] <= shares[1] <= shares[2] <= 1
    part = low_rank_scores(layer, model, batch, directions_of(layer.forces, 4))[2] ** 2
    assert (part <= whole * (1 + 1e-9) + 1e-15).all()
    samples = (directions_of(layer.forces, 4, "sample", seed=s) for s in range(40))
    drawn = [low_rank_scores(layer, model, batch, directions)[2] ** 2 for directions in samples]
    ratio = torch.stack(drawn).mean(0).sum() / whole.sum()
    assert ratio.item() == pytest.approx(1.0, abs=0.3)


def test_directions_are_refused_where_there_are_none(layer) -> None:
    for rank in (0, layer.forces.width + 1):
        with pytest.raises(UncertaintyError, match=f"{layer.forces.width} weights"):
            directions_of(layer.forces, rank)
    with pytest.raises(UncertaintyError, match="magic"):
        directions_of(layer.forces, 2, "magic")


def test_single_precision_models(make_model, dataset, frames, to_batch) -> None:
    """The posterior is fitted in float64 whatever the model is, and asked in the model's own precision."""
    single = make_model("conservative", "float32")
    layer, fitted = fit_last_layers(single, dataset)
    assert fitted["energy"].H.dtype == torch.float64
    assert single.dtype == torch.float32
    found = layer.raw(single, to_batch(frames, dtype=torch.float32))
    assert found.force_covariance.dtype == torch.float64
    reference = layer.raw(single.converted(torch.float64), to_batch(frames))
    torch.testing.assert_close(found.force_variance, reference.force_variance, rtol=5e-3, atol=1e-8)


def test_state_round_trip(model, layer, frames, to_batch) -> None:
    state = {name: torch.from_numpy(value.numpy().copy()) for name, value in layer.state_dict().items()}
    restored = LastLayer.from_state(state)
    assert (restored.forces is restored.energy) == (model.force_head is None)
    a, b = (x.raw(model, to_batch(frames)) for x in (layer, restored))
    for name, value in vars(a).items():
        assert torch.equal(value, getattr(b, name)), name
    with pytest.raises(UncertaintyError, match="incomplete"):
        LastLayer.from_state({k: v for k, v in state.items() if k != "energy.scale"})


def test_saved_arrays_need_no_laplace_torch() -> None:
    import subprocess
    import sys

    code = "import sys, equimd.uq.posterior, equimd.guard.thresholds; print('laplace' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_feature_distance_is_the_mahalanobis_distance(conservative, frames, make_frames, to_batch) -> None:
    many = make_frames((5,) * 40, seed=2)
    many = Frames(**{**vars(many), "numbers": np.repeat(many.numbers[:1], 40, 0)})  # one composition
    distance = FeatureDistance.fit(conservative, ArrayDataset(many), batch_size=7)
    phi = conservative.features(to_batch(many)).numpy()[:, :10]
    centered = phi - phi.mean(0)
    covariance = centered.T @ centered / len(phi)
    expected = np.einsum("mp,pq,mq->m", centered, np.linalg.inv(covariance), centered) / 10
    found = distance(torch.from_numpy(phi), torch.full((40,), 5)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.mean() == pytest.approx(1.0, rel=1e-6)
    far = distance(torch.from_numpy(phi[:1] + 50 * centered.std(0)), torch.tensor([5]))
    assert far.item() > 10


def test_feature_distance_with_fewer_frames_than_features(conservative, make_frames) -> None:
    few = ArrayDataset(make_frames((5, 6, 4)))
    distance = FeatureDistance.fit(conservative, few)
    assert torch.isfinite(distance.whiten).all()
    with pytest.raises(UncertaintyError, match="1 frames"):
        FeatureDistance.fit(conservative, ArrayDataset(make_frames((5,))))


def test_moments_merge_whatever_the_batches(conservative, dataset) -> None:
    fits = [FeatureDistance.fit(conservative, dataset, batch_size=n) for n in (1, 3, 8)]
    for other in fits[1:]:
        torch.testing.assert_close(other.mean, fits[0].mean, rtol=1e-12, atol=1e-14)
        a, b = (f.whiten @ f.whiten.T for f in (fits[0], other))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(a.abs().max()))


def test_variance_and_covariance_of_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.randn(6, 6, dtype=torch.float64, generator=generator).tril()
    rows = torch.randn(4, 3, 6, dtype=torch.float64, generator=generator)
    posterior = Posterior(torch.zeros(6), scale, torch.eye(6, dtype=torch.float64) / 6)
    sigma = scale @ scale.T
    torch.testing.assert_close(posterior.covariance(rows), rows @ sigma @ rows.mT)
    torch.testing.assert_close(posterior.variance(rows), torch.einsum("ncp,pq,ncq->nc", rows, sigma, rows))


def test_unknown_elements_are_refused(conservative, dataset, to_batch) -> None:
    from equimd.errors import ModelError

    layer = fit_last_layers(conservative, dataset)[0]
    with pytest.raises(ModelError, match="Ne"):
        layer.raw(conservative, to_batch(Frames.build(np.array([10, 1]), np.array([[[0.0, 0, 0], [0, 0, 1.0]]]))))


def test_rows_of_padded_slots_are_zero(model, frames, to_batch) -> None:
    batch = to_batch(frames)
    padded = batch.atomic_numbers == 0
    assert padded.any()
    assert not model.rows(batch).forces[padded].any()
