"""The calibrated score in molecular dynamics: exact where the screen asks for it, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.errors import ConfigError, UncertaintyError
from equimd.forces.forcefield import ForceField
from equimd.guard.judge import Judge
from equimd.guard.score import Rule, StepDecision, StepScore
from equimd.md.integrators import VelocityVerlet
from equimd.md.simulation import Simulation
from equimd.model.painn.potential import Potential
from tests.guard.calibrated import fit, screened
from tests.potentials import METHANOL, METHANOL_POSITIONS
from tests.uq.conftest import build_model


def thermal(count: int, width: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return METHANOL_POSITIONS + width * rng.normal(size=(count, 6, 3))


def labelled(count: int, seed: int) -> Frames:
    rng = np.random.default_rng(seed + 100)
    positions = thermal(count, 0.05, seed)
    energy = -2000.0 - 1000.0 - 4 * 13.6 + rng.normal(size=count)
    return Frames.build(METHANOL, positions, energy, rng.normal(size=positions.shape))


@pytest.fixture(params=["conservative", "direct"])
def model(request: pytest.FixtureRequest) -> Potential:
    return build_model(request.param)


@cache
def fitted(forces: str) -> StepDecision:
    return screened(*fit(build_model(forces), labelled(30, 1), labelled(40, 2), "distance_total"), share=0.4)


@pytest.fixture
def decision(model: Potential) -> StepDecision:
    return fitted(model.config.forces)


SYSTEM = System.build(METHANOL)


def asked(model: Potential, positions: np.ndarray | torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    x = torch.as_tensor(positions)
    return x, ForceField(model, SYSTEM, features=True)(x)[2]


def exact(model: Potential, decision: StepDecision, positions: torch.Tensor) -> torch.Tensor:
    """sqrt(trace C_i) of each frame alone, from the 3x3 covariances."""
    from equimd.data.batch import Batch

    out = []
    for x in positions.numpy():
        batch = Batch.from_frames(Frames.build(METHANOL, x[None]), model.config.cutoff, dtype=model.dtype)
        out.append(torch.from_numpy(decision.calibrated(model, batch).force_std))
    return torch.stack(out)


def test_only_the_rows_in_doubt_are_computed(model: Potential, decision: StepDecision) -> None:
    x, extras = asked(model, thermal(30, 0.05, 3))
    score = StepScore(decision, model, SYSTEM)
    scores, atoms = score(x, extras)
    screen = decision.screened(extras["features"], torch.full((30,), 6))
    loud = ~(screen < decision.level)
    assert 0 < int(loud.sum()) < 30
    assert (score.count, score.exact_count) == (30, int(loud.sum()))
    assert torch.equal(scores[~loud], screen[~loud])
    assert bool(torch.isnan(atoms[~loud]).all())
    expected = exact(model, decision, x[loud])
    torch.testing.assert_close(atoms[loud], expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(scores[loud], expected.amax(1), rtol=1e-9, atol=0)


def test_of_two_thresholds_each_speaks_as_if_it_were_alone(model: Potential, decision: StepDecision) -> None:
    x, extras = asked(model, thermal(60, 0.05, 3))
    screen = decision.screened(extras["features"], torch.full((60,), 6))
    low, high = (replace(decision, level=float(torch.quantile(screen, share))) for share in (0.3, 0.6))
    found = exact(model, decision, x).amax(1)
    for flag, halt in ((low, high), (high, low)):
        above = float(found.median().clamp(min=high.level))
        limits = above, 1.02 * above
        both = Judge.of(model, SYSTEM, Rule("halt", halt, limits[1], (flag, limits[0])))
        alone = Judge.of(model, SYSTEM, Rule("halt", halt, limits[1]))
        told, only = (judge(x, screen, torch.zeros_like(x), extras) for judge in (both, alone))
        assert told.halts == only.halts and 0 < len(told.halts) < 60, "to the last bit"
        halted = {e.row for e in told.halts}
        expected = (found > limits[0]) & ~(screen < flag.level)
        assert {e.row for e in told.events} - halted == set(expected.nonzero().flatten().tolist()) - halted
        assert all(e.threshold == limits[0] for e in told.events if e.action == "flag")
        assert both.score.exact_count == int((~(screen < low.level)).sum())
    hidden = (found > limits[1]) & (screen < high.level)
    assert bool(hidden.any()), "the screen clears some of those for one of the two thresholds"


def test_features_and_screen_give_the_same(model: Potential, decision: StepDecision) -> None:
    x, extras = asked(model, thermal(20, 0.05, 4))
    function = StepScore(decision, model, SYSTEM)
    screen = decision.screened(extras["features"], torch.full((20,), 6))
    for a, b in zip(function(x, extras), function(x, {"screen": screen}), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(UncertaintyError, match="neither features nor the screen"):
        function(x, {})


def test_broken_rows_score_nan_and_disturb_nobody(model: Potential, decision: StepDecision) -> None:
    x, extras = asked(model, thermal(8, 0.3, 5))
    function = StepScore(StepDecision(decision.calibrated, decision.screen, 0.0), model, SYSTEM)
    whole, _ = function(x, extras)
    assert bool(torch.isfinite(whole).all())
    broken = x.clone()
    broken[2, 1, 0], broken[5, 0, 2] = torch.nan, torch.inf
    _, after = asked(model, broken)
    scores, atoms = function(broken, after)
    assert torch.isnan(scores).nonzero().flatten().tolist() == [2, 5]
    assert torch.isnan(atoms).any(1).nonzero().flatten().tolist() == [2, 5]
    good = [k for k in range(8) if k not in (2, 5)]
    torch.testing.assert_close(scores[good], whole[good], rtol=1e-9, atol=0)
    features = extras["features"].clone()
    features[3, 0] = torch.nan  # features alone may overflow, too
    assert torch.isnan(function(x, {"features": features})[0]).nonzero().flatten().tolist() == [3]
    assert bool(torch.isnan(function(x, {"features": features * torch.nan})[0]).all())


def test_the_score_does_not_turn(model: Potential, decision: StepDecision) -> None:
    q, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))
    function = StepScore(decision, model, SYSTEM)
    x = thermal(20, 0.05, 7)
    a, b = function(*asked(model, x)), function(*asked(model, x @ q.T + [50.0, -20.0, 7.0]))
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-8, atol=0, equal_nan=True)


def test_single_precision_says_the_same(decision: StepDecision, model: Potential) -> None:
    """Far from the origin, too: the molecule is centred before its positions are rounded."""
    single = Potential(model.config.model_copy(update={"dtype": "float32"}))
    single.load_state_dict(model.state_dict())
    x = thermal(6, 0.05, 8) + [3000.0, -500.0, 40.0]
    always = StepDecision(decision.calibrated, decision.screen, 0.0)
    a, b = (StepScore(always, m.eval(), SYSTEM)(*asked(m, x))[1] for m in (model, single))
    torch.testing.assert_close(b, a, rtol=1e-3, atol=0)


def test_a_guard_halts_on_it_and_names_the_atom(model: Potential, decision: StepDecision) -> None:
    x, extras = asked(model, thermal(12, 0.05, 9))
    function = StepScore(decision, model, SYSTEM)
    scores, atoms = function(x, extras)
    finite = atoms[torch.isfinite(atoms).all(1)].amax(1)
    threshold = max(float(finite.sort().values[-2]), decision.level)
    judge = Judge.of(model, SYSTEM, Rule("halt", decision, threshold))
    over = (scores > threshold).nonzero().flatten().tolist()
    found = judge(x, torch.zeros(12), torch.zeros_like(x), extras)
    assert [e.row for e in found.halts] == over
    assert over
    for event in found.halts:
        assert int(atoms[event.row].argmax()) in event.atoms
        assert f"above {threshold:.4g} eV/A" in event.reason


def test_the_features_of_ones_own_model_are_judged(model: Potential, decision: StepDecision) -> None:
    """What the model gives beside its energy and forces is all it takes, frame by frame or at once."""
    from equimd.data.batch import Batch

    x = thermal(10, 0.05, 10)
    batch = Batch.from_frames(Frames.build(METHANOL, x), model.config.cutoff, dtype=model.dtype)
    out = {k: v.detach() for k, v in model(batch).items()}
    energy, forces, features = out["energy"], out["forces"].view(10, 6, 3), out["features"]
    judge = Judge.of(model, SYSTEM, Rule("flag", decision, 2.0 * decision.level), "flag")
    together = judge(x, energy, forces, {"features": features})
    assert together.scores is not None and 0 < judge.score.exact_count < judge.score.count == 10
    for k in range(10):
        alone = judge(x[k], float(energy[k]), forces[k].numpy(), {"features": features[k].numpy()})
        assert [e.reason for e in alone.events] == [e.reason for e in together.events if e.row == k]
        torch.testing.assert_close(alone.scores[0], together.scores[k], rtol=1e-9, atol=0)


def test_forces_and_their_judge_belong_together(model: Potential, decision: StepDecision) -> None:
    judge = Judge.of(model, SYSTEM, Rule("halt", decision, 2.0 * decision.level))
    field = ForceField(model, SYSTEM, judge=judge)
    x = torch.as_tensor(thermal(2, 0.02, 11))
    started = {"dof": 18, "positions": x, "velocities": torch.zeros_like(x)}
    simulation = Simulation.start(SYSTEM, VelocityVerlet(0.5), field, **started)
    assert simulation.judge is judge and simulation.decision.scores is not None
    with pytest.raises(ConfigError, match="made for another judge"):
        Simulation.start(SYSTEM, VelocityVerlet(0.5), field, **started, judge=Judge())
    other = Potential(model.config).eval()
    for mine, system, more in (
        (other, SYSTEM, {}),
        (model, SYSTEM, {"charge": 1}),
        (model, System.build(METHANOL[::-1].copy()), {}),
        (model, System.build(METHANOL, cell=9.0 * np.eye(3), pbc=[True] * 3), {}),
    ):
        with pytest.raises(ConfigError, match="than the forces"):
            ForceField(mine, system, judge=judge, **more)
    with pytest.raises(UncertaintyError, match="below the screen's level"):
        Judge.of(model, SYSTEM, Rule("halt", decision, 0.5 * decision.level))
