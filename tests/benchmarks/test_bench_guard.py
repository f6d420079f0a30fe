"""The guard suite: what it measures on a toy, and the picture from its results file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from equimd.benchmarks import models
from equimd.benchmarks.guard import guard_suite, guard_tables
from equimd.benchmarks.options import Options
from equimd.benchmarks.results import merge
from equimd.data.dataset import ArrayDataset
from equimd.files import plain
from tests.benchmarks.conftest import Toy
from tests.training.toy import toy_frames

RESULTS = Path(guard_suite.__file__).parent.parent / "results"
SIZE = guard_suite.GuardSize((580.0, 20_000.0), steps=40, false_halt_rate=0.1, blocks=9)


@pytest.mark.filterwarnings(
    "ignore:the threshold was calibrated for 580 K", "ignore:no calibration of the run is for 40 steps"
)
def test_a_halted_run_is_gone_on_with_and_both_become_rows(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    held_out = ArrayDataset(toy_frames(450, seed=5))
    found = plain(guard_suite.measure(toy.run, tmp_path / "work", SIZE, 0, held_out, "water"))
    cold, hot = found["traces"]["580K"], found["traces"]["20000K"]
    assert found["threshold"] > 0 and found["coverage"] == 0.9
    assert cold["halted_fs"] is None and len(cold["error"]) == 5 and cold["time_fs"] == [0, 5, 10, 15, 20]
    assert all(bound < found["threshold"] for bound in cold["bound"])
    assert 0 < hot["halted_fs"] < 20
    over = [t for t, bound in zip(hot["time_fs"], hot["bound"], strict=True) if bound > found["threshold"]]
    assert over and min(over) >= hot["halted_fs"] - 5
    case = models.case(models.BUNDLED)
    rows = list(guard_suite.rows(found, 7.0, case, Options((), budget_s=300.0, out=tmp_path)))
    merge(tmp_path / "guard.json", "guard", rows, {"frames": "0"})
    text = guard_tables.write(tmp_path).read_text()
    assert f"| 20000 K | {hot['halted_fs']:g} |" in text and "| 580 K | - | 5 |" in text
    assert (tmp_path / "guard.png").stat().st_size > 10_000


def test_the_table_and_the_picture_are_those_of_the_results_file(tmp_path: Path) -> None:
    from PIL import Image

    found = json.loads((RESULTS / "guard.json").read_text())
    assert (RESULTS / "guard.md").read_text() == guard_tables.markdown(found)
    guard_tables.picture(found, tmp_path / "guard.png")
    drawn, kept = (Image.open(io.BytesIO((f / "guard.png").read_bytes())) for f in (tmp_path, RESULTS))
    assert drawn.size == kept.size and (RESULTS / "guard.png").stat().st_size < 200_000
    apart = np.abs(np.asarray(drawn, float) - np.asarray(kept, float))
    assert (apart > 64).mean() < 0.01  # fonts of another version of matplotlib


def test_the_run_at_the_temperature_of_training_went_through_and_the_hot_one_did_not() -> None:
    cold, hot = guard_tables.traces(json.loads((RESULTS / "guard.json").read_text())).values()
    assert cold["halted"] is None and hot["halted"] is not None
    before = guard_tables.before_halt(hot)
    assert np.nanmax(hot["error"][~before]) > np.nanmax(hot["error"][before]) > 0
