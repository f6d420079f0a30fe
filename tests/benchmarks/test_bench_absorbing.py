"""Absorbing labels: the posterior moved on as by a fit to all frames, the model that follows, and the two loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from equimd.benchmarks.absorbing import absorbing_suite as suite
from equimd.benchmarks.absorbing import learners
from equimd.benchmarks.absorbing.guarded import Plan, Runs
from equimd.benchmarks.absorbing.readout import ReadoutModel, absorb
from equimd.benchmarks.options import Options
from equimd.benchmarks.results import merge
from equimd.data.batch import Batch
from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.data.split import Split
from equimd.guard.score import exact_scores
from equimd.model.conformance import check_model
from equimd.training.setup import SPLIT_FILE
from equimd.uq.laplace import fit_posterior
from tests.benchmarks.conftest import Toy
from tests.training.toy import toy_frames
from tests.uq.conftest import SIZES, Regression, build_model, random_frames

NOISE, PRIOR = (0.7, 0.3), 2.0
PLAN = Plan(
    temperature=580.0, steps=40, replicas=2, labels=4, passes=1, neighbours=1, spacing=2, retrain_s=1.0, judge_every=10,
    calculator="tests.labels.methods:Springs",
)  # fmt: skip


def test_absorbing_is_a_fit_to_all_frames() -> None:
    model, old, new = build_model("conservative"), random_frames(SIZES), random_frames((5, 4, 6), seed=1)
    settings: dict[str, Any] = {"targets": "both", "sigma_noise": NOISE, "prior_precision": PRIOR}
    fitted = fit_posterior(model, ArrayDataset(old), **settings)
    before = fitted.posterior()  # and what it keeps is not used again
    for k in range(3):
        absorb(fitted, ArrayDataset(new.take([k])))
    whole = fit_posterior(model, ArrayDataset(Frames.concatenate([old, new])), **settings)
    assert torch.allclose(fitted.posterior_precision, whole.posterior_precision, rtol=1e-10)
    assert torch.allclose(fitted.posterior_mean(), whole.posterior_mean(), rtol=1e-7, atol=1e-10)
    assert torch.allclose(fitted.posterior().scale, whole.posterior().scale, rtol=1e-7, atol=1e-10)
    assert not torch.allclose(before.scale, fitted.posterior().scale, rtol=1e-2)
    parts = [Regression.of(model, frames).stacked("both", NOISE) for frames in (old, new)]
    x, y, s = (np.concatenate(column) for column in zip(*parts, strict=True))
    precision = PRIOR * np.eye(x.shape[1]) + (x / s[:, None] ** 2).T @ x
    mean = np.linalg.solve(precision, x.T @ (y / s**2))
    assert np.allclose(fitted.posterior_precision.numpy(), precision, rtol=1e-8)
    assert np.allclose(fitted.posterior_mean().numpy(), mean, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_model_with_another_readout_keeps_the_contract(dtype: str) -> None:
    base = build_model("conservative", dtype)
    generator = torch.Generator().manual_seed(0)
    weights = 0.3 * torch.randn(base.num_pooled, generator=generator, dtype=torch.float64)
    model = ReadoutModel(base, weights)
    check_model(model)
    batch = Batch.from_frames(random_frames(SIZES), base.cutoff, dtype=base.dtype)
    expected = base.features(batch).double() @ weights + base.reference_energy(batch)
    assert torch.allclose(model.evaluate(batch)["energy"], expected, atol=1e-3)
    assert model.identity() != ReadoutModel(base, 2 * weights).identity()
    own = torch.zeros(base.num_pooled).to(base.energy_weights)
    own[: len(base.energy_weights)] = base.energy_weights
    same, trained = ReadoutModel(base, own).evaluate(batch), base.evaluate(batch)
    assert torch.allclose(same["energy"], trained["energy"], rtol=1e-6)
    assert torch.allclose(same["forces"], trained["forces"], atol=1e-4)


@pytest.fixture(scope="module")
def start(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> learners.Start:
    """Runs begin where the toy model is surest."""
    split, known, held_out = Split.load(toy.run / SPLIT_FILE), toy_frames(60), toy.held_out.frames()
    tests = {"300K": held_out.take(range(20)), "600K": held_out.take(range(20, 40))}
    folder, calibration = tmp_path_factory.mktemp("absorbing"), ArrayDataset(held_out.take(range(40, 110)))
    begun = learners.Start(
        toy.run, known.take(split.train), known.take(split.val), calibration, held_out, tests, folder, 0
    )
    return replace(begun, starts=held_out.take(np.argsort(scores_of(begun, held_out))[:2]))


def scores_of(start: learners.Start, frames: Frames) -> np.ndarray:
    known = start.calibrated(start.run)
    return exact_scores(known.calibration.calibrated, known.predictions(frames))[0]


def strict(start: learners.Start) -> Plan:
    """Halting where the bound of half the ordinary frames is."""
    multiplier = start.calibrated(start.run).calibration.error.multiplier
    return replace(PLAN, error=multiplier * float(np.quantile(scores_of(start, start.tests["300K"]), 0.5)))


def test_runs_stop_at_the_first_halt_and_go_on_from_the_last_good_frames(start: learners.Start) -> None:
    known, plan = start.calibrated(start.run), strict(start)
    runs = Runs.begin(start.starts, plan, 3)
    refused = runs.advance(known, plan, at_once=True)
    assert refused and 0 < runs.left.sum() < 2 * plan.steps
    threshold = known.watch(plan.error).threshold
    refusals = runs.at([halt[0] for halt in refused])
    assert (scores_of(start, refusals) > threshold).all()
    assert (scores_of(start, runs.at(runs.positions.numpy())) <= threshold).all()
    there, left = runs.positions.clone(), runs.left.copy()
    lenient = replace(plan, error=1e3)
    assert runs.advance(known, lenient) == [] and runs.complete == 2
    assert not torch.equal(runs.positions, there)
    assert len(runs.taken) == 2 * plan.steps // plan.judge_every  # each once, whatever came between
    assert (left < plan.steps).any() and runs.bad_share(plan) is not None


@pytest.mark.parametrize("name", list(learners.LEARNERS))
def test_halts_are_answered_until_labels_are_spent(name: str, start: learners.Start) -> None:
    plan = strict(start)
    found = learners.loop(name, start, plan)
    assert 0 < found["labels"] <= plan.labels and found["halts"] >= 1 and found["minutes"] > 0
    assert found["reached"] == (found["complete"] == plan.replicas and found["bad_share"] <= plan.share)
    assert {"fresh_complete", "forces_mae_300K", "forces_mae_600K"} <= set(found)


def test_without_halts_nothing_is_labelled_and_the_model_stays(start: learners.Start) -> None:
    plan = replace(PLAN, error=1e3)
    found = learners.loop("absorb", start, plan)
    assert found["reached"] and (found["labels"], found["halts"], found["passes"]) == (0, 0, 1)
    same = learners.judged(start.calibrated(start.run), start, plan)
    assert {key: found[key] for key in same} == same


def test_what_is_measured_is_kept_and_tabled(start: learners.Start, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(PLAN, error=1e3)
    found = {name: {0: values} for name, values in suite.measured(start, plan, ("absorb",)).items()}
    monkeypatch.setattr(suite, "loop", None)  # what is finished is not made again
    assert suite.measured(start, plan, ("absorb",))["absorb"] == found["absorb"][0]
    options = Options((), out=start.folder / "out", preset="small", budget_s=300.0)
    text = suite.markdown(merge(options.out / "absorbing.json", "absorbing", suite.rows(found, plan, options), {}))
    assert "| | start, 1000 eV/A | absorb, 1000 eV/A |" in text and "| labels | - | 0 |" in text
