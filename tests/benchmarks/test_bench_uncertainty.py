"""Pieces, seeds, tables and plots of the suites on uncertainty and conservation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimd.benchmarks import models
from equimd.benchmarks.arguments import parse
from equimd.benchmarks.calibration import calibration_tables, costs, sigmas
from equimd.benchmarks.conservation import conservation_runs, conservation_suite, conservation_tables
from equimd.benchmarks.detection import detection_tables
from equimd.benchmarks.options import Options
from equimd.benchmarks.pieces import MeasuredRow, over_seeds, piece
from equimd.benchmarks.results import merge
from equimd.data.dataset import ArrayDataset
from equimd.tasks.compare.measures import pooled
from equimd.uq.samples import Samples
from tests.benchmarks.conftest import Toy
from tests.uq.conftest import build_model, random_frames


def test_a_piece_is_made_once_for_its_settings(tmp_path: Path) -> None:
    made = []

    def make(value: float) -> dict[str, Any]:
        made.append(value)
        return {"value": np.float64(value), "array": np.array([1.0, np.nan])}

    first = piece(tmp_path, "one", {"a": 1}, lambda: make(2.0))
    assert piece(tmp_path, "one", {"a": 1}, lambda: make(3.0)) == first
    assert first["value"] == 2.0 and first["array"] == [1.0, None]
    assert piece(tmp_path, "one", {"a": 2}, lambda: make(3.0))["value"] == 3.0
    assert made == [2.0, 3.0]


def test_seeds_are_averaged_and_their_intervals_joined() -> None:
    joined = over_seeds({0: (1.0, [0.9, 1.1]), 1: (2.0, [1.5, 2.5]), 2: (None, None)})
    assert joined == {"value": 1.5, "interval": [0.9, 2.5], "per_seed": {"0": 1.0, "1": 2.0}}
    assert over_seeds({0: (None, None)}) is None


def row(name: str, value: float, **more: Any) -> MeasuredRow:
    return MeasuredRow(name, value, "1", "equimd bench", "default, 9 blocks of 40 steps", 60.0, 50, 0, **more)


def written(tmp_path: Path, suite: str, rows: list[MeasuredRow]) -> dict[str, Any]:
    merge(tmp_path / f"{suite}.json", suite, rows, {})
    return json.loads((tmp_path / f"{suite}.json").read_text())


def test_the_calibration_table_holds_every_method(tmp_path: Path) -> None:
    rows = []
    for method in ("last-layer", "ensemble-4", "gmm"):
        for split in ("300K", "600K"):
            name = f"bundled/ethanol/{split}/{method}"
            rows.append(row(f"{name}/forces_zms", 1.234, interval=[1.1, 1.3]))
            rows.append(row(f"{name}/auroc_bad", 0.987))
        rows.append(row(f"bundled/ethanol/300K/{method}/step_ratio", 4.2))
    rows.append(row("bundled/ethanol/300K/last-layer/flag_rate_at_0_5_percent", 0.006, interval=[0.005, 0.008]))
    halts = "bundled/ethanol/300K/last-layer/false_halts_of_200_runs_at_10_percent"
    rows.append(row(halts, 21.0, interval=[8, 36], per_seed={"0": 20.0, "1": 22.0}))
    rows.append(row("rmd17/ethanol/01/eager/decision_halt_ratio", 1.1))
    rows.append(row("rmd17/ethanol/01/eager/plain_ms", 3.0))
    text = calibration_tables.markdown(written(tmp_path, "calibration", rows))
    assert text.count("1.23 [1.10, 1.30]") == 6 and text.count("ensemble of 4") == 2
    assert text.index("| 300K | gmm" if "| 300K | gmm" in text else "| 300K |") < text.index("| 600K |")
    assert "flags a frame | 0.5 % | 0.60 %" in text and "0.50 to 0.80 %" in text
    assert "false halts of 200 runs (9 blocks of 40 steps) | 10 % | 21.0 | 20, 22 | 8 to 36 expected" in text
    assert "| rmd17 ethanol | eager | 3.00 | 1.10 |" in text


def test_a_method_is_judged_with_the_workflows_own_recalibration(toy: Toy, tmp_path: Path) -> None:
    from equimd.benchmarks.calibration.baselines import last_layer, mahalanobis
    from equimd.run import Run
    from equimd.tasks.calibrate.frames import training_frames
    from tests.training.toy import toy_frames

    train = training_frames(Run.open(toy.run))
    method, layer = last_layer(toy.model, train)
    parts = {"calibration": toy.held_out, "300K": ArrayDataset(toy_frames(60, seed=8))}
    far = toy_frames(60, seed=9)
    parts["600K"] = ArrayDataset(type(far)(**{**vars(far), "positions": 1.15 * far.positions}))
    base = {name: method.predict(part, None) for name, part in parts.items()}  # type: ignore[arg-type]
    trajectory = {name: np.zeros(len(part), np.int64) for name, part in parts.items()}
    found = sigmas.judge(sigmas.Held(base, trajectory), toy.held_out, layer, 0)
    home, away = found["splits"]["300K"], found["splits"]["600K"]
    assert 0.5 < home["forces"]["zms"] < 2.0
    assert home["forces"]["intervals"]["zms"][0] < home["forces"]["zms"] < home["forces"]["intervals"]["zms"][1]
    assert away["auroc_domain"]["value"] > 0.9 and "auroc_domain" not in home
    assert away["bad"] > home["bad"]
    pieces = {0: {"methods": {"last-layer": {"splits": found["splits"]}}}}
    calibration_tables.plot("toy", pieces, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
    ratios = sigmas.step_ratios(toy.model, [method, mahalanobis(toy.model, layer.distance)], toy.held_out)
    assert set(ratios) == {"last-layer", "mahalanobis"} and min(ratios.values()) > 0


def test_ranks_need_both_classes() -> None:
    scores, group = np.arange(60.0), np.arange(60)
    told = sigmas.ranked(scores, scores > 30, group, 0)
    assert told["value"] == 1.0 and told["interval"] == [1.0, 1.0]
    assert sigmas.ranked(scores, scores > 50, group, 0)["value"] is None


def test_the_ceiling_of_a_ranking_is_that_of_errors_drawn_from_the_prediction() -> None:
    from equimd.tasks.calibrate.sigmas import Part
    from equimd.uq.predict import Predictions
    from equimd.uq.samples import Samples

    n = 400
    sigma = np.where(np.arange(n) < n // 2, 0.1, 10.0)
    none = np.zeros(n)
    covariance = sigma[:, None, None] ** 2 * np.eye(3)
    predictions = Predictions(none, np.zeros((n, 3)), none, covariance, none, np.ones(n, int), np.arange(n))
    part = Part.of(predictions, np.arange(n))
    samples = Samples.build(np.zeros((n, 3)), covariance)
    assert sigmas.expected_auroc(sigma, samples, part, 1.0, 0)["value"] == pytest.approx(1.0, abs=0.01)
    told = sigmas.expected_auroc(np.arange(n) % 2 * 1.0, samples, part, 1.0, 0)  # a score that knows nothing
    assert told["value"] == pytest.approx(0.5, abs=0.05) and told["interval"][0] < told["value"] < told["interval"][1]
    assert sigmas.expected_auroc(sigma, samples, part, 1e3, 0)["value"] is None  # no bad frame


def test_calls_are_timed_in_turns() -> None:
    import torch

    order: list[str] = []
    calls = {name: (lambda x, n=name: order.append(n)) for name in ("plain", "other")}
    seconds = costs.interleaved(calls, torch.zeros(7, 1, 3, 3))
    assert set(seconds) == set(calls) and min(seconds.values()) >= 0
    assert order == ["plain", "other"] * (7 + costs.WARM_UP)


def test_the_detection_table_and_plot(tmp_path: Path) -> None:
    rows = []
    for split, alarms in (("300K", 2), ("1000K", 20)):
        name = f"bundled/ethanol/{split}"
        rows += [row(f"{name}/guard/runs", 20), row(f"{name}/halt/runs", alarms, interval=[0, 5])]
        rows += [row(f"{name}/guard/bad_share", 0.0123), row(f"{name}/bound/lead_median", 85.0)]
    rows.append(row("bundled/ethanol/300K/guard/tau", 0.1))
    for rule, value in (("halt", 0.4), ("flag", 0.1), ("bound", 0.05)):
        rows.append(replace(row(f"bundled/ethanol/300K/{rule}/threshold", value), unit="eV/A"))
    text = detection_tables.markdown(written(tmp_path, "detection", rows))
    assert "| | 300 K | 1000 K |" in text and "| bad frames | 1.2% | 1.2% |" in text
    assert "| | halt, 300 K | halt, 1000 K | flag, 300 K |" in text
    assert "| above (meV/A) | 400 | 400 | 100 | 100 | 50 | 50 |" in text
    assert "| runs with an alarm | 2 | 20 | - | - | - | - |" in text
    assert "False halts to expect at 300 K: 0 to 5 runs" in text and "100 meV/A on an atom (tau)" in text
    story = {"first": {"halt": 60, "flag": 20, "bound": None}, "bad": 40}
    frames = {"sigma": [0.1, 0.2], "error": [0.1, 0.3]}
    thresholds = {"halt": 0.3, "flag": 0.2, "bound": 0.1}
    found = {
        t: {"runs": [story, {**story, "bad": None}], "frames": frames, "tau": 0.2, "thresholds": thresholds}
        for t in (300.0, 1000.0)
    }
    detection_tables.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_conservative_forces_have_no_net_force_and_direct_ones_do() -> None:
    data = ArrayDataset(random_frames((6, 6), seed=1))
    same = ArrayDataset(data.frames().take([0, 0]))
    conservative = conservation_runs.net(build_model("conservative"), same)
    direct = conservation_runs.net(build_model("direct"), same)
    assert conservative["net_force"] < 1e-6 < direct["net_force"]
    assert conservative["torque"] < 1e-6 < direct["torque"]


def test_dynamics_goes_on_and_is_judged(toy: Toy, tmp_path: Path) -> None:
    kind = conservation_runs.Dynamics("nose-hoover", 300.0, 40, 2, "float64", 2, compile="off")
    conservation_runs.simulate(toy.model, toy.held_out, replace(kind, steps=20), tmp_path / "a")
    simulation = conservation_runs.simulate(toy.model, toy.held_out, kind, tmp_path / "a")
    assert simulation.state.step == 40
    told = conservation_runs.judge(simulation, toy.held_out, kind, tmp_path / "a")
    assert [r["stable_ps"] for r in told["replicas"]] == [0.02, 0.02]
    assert 0.0 < told["h"]["error"] < 2.0
    drift = pooled(told["replicas"])
    assert drift is not None and drift["error"] > 0
    assert conservation_runs.h_error(toy.held_out.frames().positions, toy.held_out)["error"] == 0.0


def test_constant_energy_starts_from_equilibrium(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conservation_runs, "EQUILIBRATION_PS", 0.01)
    kind = conservation_runs.Dynamics("nve", 300.0, 40, 2, "float32", 2, compile="off")
    simulation = conservation_runs.simulate(toy.model, toy.held_out, kind, tmp_path / "a")
    told = conservation_runs.judge(simulation, toy.held_out, kind, tmp_path / "a")
    assert all(r["curve"][0][0] == 0.0 and r["drift"] is not None for r in told["replicas"])
    assert "h" not in told
    found = {
        "toy": {
            "nve-float64": {"conservative": told},
            "nvt": {"conservative": {**told, "h": {"r": [1, 2], "own": [0, 1], "data": [0, 1]}}},
        }
    }
    conservation_tables.plots(found, tmp_path)
    assert all((tmp_path / name).stat().st_size > 5000 for name in conservation_tables.PLOTS)


def test_the_conservation_table_sets_variants_side_by_side(tmp_path: Path) -> None:
    rows = [row("rmd17/ethanol/01/conservative/nve_float64_drift", 0.001, interval=[-0.001, 0.003])]
    rows += [row("rmd17/ethanol/01/direct/nve_float64_stable", 12.3)]
    rows += [row(f"rmd17/ethanol/01/{v}/net_force", x) for v, x in (("conservative", 1e-5), ("direct", 20.0))]
    text = conservation_tables.markdown(written(tmp_path, "conservation", rows))
    assert "| | ethanol, conservative | ethanol, direct |" in text
    assert "| drift, float64 (meV/atom/ps) | +0.001 ± 0.002 | - |" in text
    assert "| net force, rms (meV/A) | 1e-05 | 20 |" in text


def test_the_conservation_table_says_what_was_trained_and_for_how_long(tmp_path: Path) -> None:
    case, errors = models.case("ethanol"), dict.fromkeys(("net_force", "torque", *conservation_suite.ERRORS), 1.0)
    options = Options((tmp_path,), ("ethanol",), 600.0)
    replica = {"stable_ps": 5.0, "drift": 0.01, "drift_error": 0.001, "curve": None}
    nve = {"replicas": [replica, replica], "length_ps": 5.0}
    found = {"errors": {"direct": errors}, "nve-float64": {"direct": nve}}
    rows = list(conservation_suite.rows(case, found, options))
    text = conservation_tables.markdown(written(tmp_path, "conservation", rows))
    assert "Models: `small` preset, 10 min of training" in text
    assert "constant energy at 300 K: 2 replicas of 5 ps" in text


def test_steps_are_timed_side_by_side(toy: Toy) -> None:
    found = conservation_runs.step_times({"conservative": toy.model, "direct": toy.model}, toy.held_out, 40, ("off",))
    assert set(found) == {"eager"} and min(found["eager"].values()) > 0


def test_the_command_line_gives_options(tmp_path: Path) -> None:
    words = ["--molecules", "bundled", "--budget", "2h", "--seeds", "0", "3", "--quick", "--out", str(tmp_path)]
    words += ["--dtypes", "float32"]
    own: dict[str, Any] = {"members": 4, "dtypes": ("float64", "float32")}
    options, more = parse("A suite.", words, molecules=("acac",), seeds=(0,), parts=("a", "b"), **own)
    assert isinstance(options, Options) and options.molecules == ("bundled",) and options.seeds == (0, 3)
    assert options.budget_s == 7200.0 and more == {
        "parts": ["a", "b"],
        "quick": True,
        "members": 4,
        "dtypes": ["float32"],
    }


def test_perfect_sigmas_are_told_so() -> None:
    rng = np.random.default_rng(0)
    variance = rng.gamma(4.0, size=4000)
    samples = Samples.build(rng.normal(size=4000) * np.sqrt(variance), variance)
    from equimd.tasks.calibrate import quality as report

    told = report.quality(samples)
    assert told["zms"] == pytest.approx(1.0, abs=0.1) and told["coverage_95"] == pytest.approx(0.95, abs=0.01)
