"""Scored runs: in segments as in one go, and what rules applied afterwards make of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from equimd.benchmarks import kept, models, own_runs
from equimd.benchmarks.calibration import rates
from equimd.benchmarks.detection import detection_runs, detection_suite, labels
from equimd.benchmarks.own_runs import Plan, ScoredRuns
from equimd.data.system import System
from equimd.guard.score import StepScore
from tests.benchmarks.conftest import SETTINGS, STEPS, Toy

RUNS = 4


def plan(toy: Toy, **options: object) -> Plan:
    levels = (toy.calibration.levels.flag, toy.calibration.levels.halt or 0.0)
    values = {"temperature": 580.0, "steps": STEPS, "seed": 7, "floor": min(levels), "segment": 10, "keep_every": 5}
    return Plan(**{**values, "replicas": 2, **options})  # type: ignore[arg-type]


def run(toy: Toy, folder: Path, **options: object) -> ScoredRuns:
    decision, _ = toy.calibration.decision("halt")
    return own_runs.run(toy.model, decision, toy.held_out.frames(np.arange(RUNS)), plan(toy, **options), folder)


def test_segments_and_an_interruption_change_nothing(toy: Toy, tmp_path: Path) -> None:
    whole = run(toy, tmp_path / "a", segment=STEPS)
    parts = run(toy, tmp_path / "b")
    files = sorted((tmp_path / "b").rglob("*.npz"))
    assert len(files) == 2 * 3  # batches of two runs, three segments each
    files[-1].unlink()
    again = run(toy, tmp_path / "b")
    for name in ("screen", "exact", "kept", "steps", "kept_steps"):
        assert np.array_equal(getattr(parts, name), getattr(again, name), equal_nan=True), name
        # a segment starts with neighbours of its own: the same pairs summed in another order, in float32
        assert np.allclose(getattr(whole, name), getattr(parts, name), rtol=1e-4, equal_nan=True), name
    assert whole.screen.shape == (RUNS, STEPS) and whole.kept.shape == (RUNS, STEPS // 5, 3, 3)


def test_kept_scores_are_those_of_the_decision(toy: Toy, tmp_path: Path) -> None:
    found = run(toy, tmp_path, floor=0.0)
    assert np.isfinite(found.exact).all()
    decision, _ = toy.calibration.decision("halt")
    system = System.build(toy.held_out.frames([0]).numbers[0])
    column = int(np.searchsorted(found.steps, found.kept_steps[-1]))
    positions = torch.from_numpy(found.kept[:, -1].copy())
    screen = torch.from_numpy(found.screen[:, column].copy())
    exact = StepScore(kept.always_exact(decision), toy.model, system)(positions, {"screen": screen})[0]
    assert np.allclose(found.exact[:, column], exact.numpy(), rtol=1e-5)
    level = float(np.median(found.screen))
    quiet = found.screen < level
    scores = found.scores(level)
    assert np.array_equal(scores[quiet], found.screen[quiet]) and np.array_equal(scores[~quiet], found.exact[~quiet])


def test_marks_are_the_first_of_each_event_and_the_alarm(toy: Toy, tmp_path: Path) -> None:
    everything = run(toy, tmp_path / "a", floor=0.0)
    alarm = float(everything.exact.max(1).min()) * (1 - 1e-9)  # every run has one
    threshold = min(float(np.quantile(everything.exact, 0.5)), alarm)
    found = run(toy, tmp_path / "b", floor=0.0, mark=threshold, mark_gap=10, alarm=alarm)
    first = [int(everything.steps[(row > alarm).argmax()]) for row in everything.exact]
    assert found.first_above(0.0, alarm) == first
    for number in range(RUNS):
        steps = found.marked_step[found.marked_run == number]
        assert first[number] in steps
        flagged = everything.steps[everything.exact[number] > threshold]
        assert steps[0] == flagged[0]
        after = found.steps > first[number]
        scored = np.isfinite(found.exact[number]) & after
        assert set(found.steps[scored]) == {s for s in found.kept_steps.tolist() if s > first[number]}


def synthetic(scores: np.ndarray, stopped: dict[int, tuple[int, str]] | None = None) -> ScoredRuns:
    n = scores.shape[1]
    none = np.zeros(0, np.int64)
    steps = np.arange(1, n + 1)
    return ScoredRuns(
        scores, scores, steps, np.zeros((len(scores), 0, 3, 3)), none, np.zeros((0, 3, 3)), none, none, stopped or {}
    )


def test_rates_count_runs_and_frames(toy: Toy) -> None:
    flag, halt = toy.calibration.flag.value, toy.calibration.decision("halt")[1]
    scores = np.zeros((20, 50))
    scores[3, 10] = scores[7, 49] = 2 * max(flag, halt)
    scores[5, :25] = np.nextafter(flag, np.inf) if flag < halt else 0.0
    found = synthetic(scores, {11: (20, "fused")})
    told = rates.halts(toy.calibration, found)
    assert told["count"] == 3 and told["runs"] == 20 and len(told["physical"]) == 1
    assert told["expected"] == list(toy.calibration.halt.false_halts(20))  # type: ignore[union-attr]
    flags = rates.flags(toy.calibration, found, seed=0)
    assert flags["rate"] == pytest.approx((2 + 25 * (flag < halt)) / 1000)
    assert flags["interval"][0] <= flags["rate"] <= flags["interval"][1]
    assert found.first_above(0.0, halt)[11] == 20


def test_the_kept_calibration_is_that_of_the_workflow(toy: Toy) -> None:
    from equimd.run import Run
    from equimd.tasks.calibrate.task import calibrate, prepare

    done = calibrate(prepare(Run.open(toy.run), toy.held_out, SETTINGS)).calibration
    assert done.halt is not None and toy.calibration.halt is not None
    assert toy.calibration.halt.value == pytest.approx(done.halt.value, rel=1e-5)
    assert toy.calibration.flag.value == pytest.approx(done.flag.value, rel=1e-9)
    assert toy.calibration.state_point == done.state_point
    assert toy.again.flag.alpha == 0.1 and toy.again.halt is None
    assert toy.again.flag.value <= toy.calibration.flag.value
    again = kept.calibrations(toy.run, toy.held_out, SETTINGS, toy.folder / "kept", flags=(0.1,))
    assert again[0].created == toy.calibration.created


def test_labels_end_where_nothing_is_left_to_learn(tmp_path: Path) -> None:
    steps = np.arange(10, 110, 10)
    positions = np.zeros((10, 2, 3))
    positions[:, 1, 0] = [2.5, 2.5, 1.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5]  # the third frame is far from equilibrium
    even = steps % 50 == 0
    zero = np.zeros_like(positions)
    task = labels.Task(np.array([29, 29]), positions, zero, steps, even, even, 40, 3.0, "emt")
    (found,) = labels.label([task], tmp_path, ["one"], workers=0)
    assert np.flatnonzero(found > 3.0).tolist() == [2]
    assert np.isfinite(found).tolist() == [True, True, True, True, True, False, False, False, False, True]
    (tmp_path / "one.npz").touch()
    assert np.array_equal(labels.label([task], tmp_path, ["one"], workers=0)[0], found, equal_nan=True)
    (all_of_them,) = labels.label([replace(task, alarm=None)], tmp_path, ["two"], workers=0)
    assert np.isfinite(all_of_them).all()


def test_detection_tells_the_story_of_each_run(toy: Toy, tmp_path: Path) -> None:
    errors = detection_runs.max_errors(toy.model, toy.held_out)
    bench = detection_runs.Bench(toy.model, toy.calibration, toy.held_out, float(np.quantile(errors, 0.9)), 0)
    size = detection_runs.DetectionSize(
        (580.0,), runs=3, steps=20, label_every=2, blocks=9, real=2, replicas=3, sparse=2
    )
    found = detection_runs.record(bench, 580.0, size, tmp_path)
    tasks = [detection_runs.task(bench, found, k, None, size) for k in range(3)]
    assert all(len(t.steps) >= 10 and (np.diff(t.steps) > 0).all() for t in tasks)
    errors_ = [np.where(t.even, 0.1 * bench.tau, np.nan) for t in tasks]
    errors_[1][4] = 2 * bench.tau
    told = [
        detection_runs.story(bench, {"halt": 6 if k == 1 else None}, (8, "apart") if k == 2 else None, tasks[k], wrong)
        for k, wrong in enumerate(errors_)
    ]
    assert [t["bad"] for t in told] == [None, int(tasks[1].steps[4]), None]
    assert [t["first"]["halt"] for t in told] == [None, 6, None]
    assert [t["physical_step"] for t in told] == [None, None, 8]
    frames = detection_runs.frame_rates(bench, tasks, errors_, seed=0)
    assert frames["n"] == sum(int((t.even & np.isfinite(e)).sum()) for t, e in zip(tasks, errors_, strict=True))
    assert set(frames["rules"]) == {"halt", "flag", "bound"} == set(bench.rules)
    halted = detection_runs.real(bench, 580.0, found, size)["runs"]
    assert [r["halted"] for r in halted] == [r["alarm"] for r in halted]


def test_what_a_rule_made_of_the_runs() -> None:
    def story(alarm: int | None, bad: int | None, physical: int | None = None) -> dict[str, object]:
        return {"first": {"flag": alarm}, "bad": bad, "physical": physical and "apart", "physical_step": physical}

    told = detection_suite._of_rule(
        "flag", [story(10, 30), story(50, 30), story(None, 30), story(5, None), story(40, 40, 60)]
    )
    assert {name: value for name, (value, *_) in told.items()} == {
        "runs": 4,
        "before_bad": 2,
        "missing": 1,
        "without_bad": 1,
        "lead_median": 0.0,
        "lead_least": -10.0,
        "before_physical": 1,
        "lead_physical_median": 10.0,
    }


def test_scores_are_exact_from_a_lower_floor_until_an_early_alarm(toy: Toy, tmp_path: Path) -> None:
    everything = run(toy, tmp_path / "a", floor=0.0, segment=7)
    crossing = float(np.median(everything.exact))
    found = run(toy, tmp_path / "b", floor=np.inf, early=(0.0, crossing), segment=7)
    for known, row in zip(everything.exact, found.exact, strict=True):
        over = np.flatnonzero(known > crossing)
        until = over[0] + 1 if len(over) else STEPS
        assert np.allclose(row[:until], known[:until], rtol=1e-4) and np.isnan(row[until:]).all()


def test_cases_are_named_as_their_rows(shared_data: Path) -> None:
    from equimd.benchmarks.options import Options

    options = Options(data=(shared_data,))
    case = models.case("ethanol")
    assert case.row == "rmd17/ethanol/01" and case.split == "01"
    held = models.held_out(case, options, seed=0)
    other = models.held_out(case, options, seed=1)
    halves = [set(part.frames().content_hashes()) for part in (held.calibration, held.tests["01"])]
    assert len(halves[0]) == len(halves[1]) == 500 and not halves[0] & halves[1]
    assert set(other.calibration.frames().content_hashes()) != halves[0]
    acac = models.held_out(models.case("acac"), options, seed=0, limit=50)
    assert list(acac.tests) == ["300K", "600K"] and len(acac.calibration) == 50
    bundled = models.held_out(models.case("bundled"), options, seed=0)
    assert [len(t) for t in bundled.tests.values()] == [1000, 500, 500]
