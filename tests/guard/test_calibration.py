"""A calibration on disk: the same bits again, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from equimd.errors import RunError, UncertaintyError
from equimd.guard.calibration import FORMAT_VERSION
from equimd.guard.saved import is_calibrated, load_calibration
from tests.guard.calibrated import calibration
from tests.uq.conftest import build_model, random_frames

MANY = (5, 7, 4) * 12


@cache
def calibrated(forces: str):
    train, held_out = random_frames(MANY, seed=8), random_frames(MANY, seed=9)
    return calibration(build_model(forces), train, held_out, model_sha256="abc", compositions=("CH4O", "H2O"))


@pytest.fixture
def made(model):
    return calibrated(model.config.forces)


def edit(folder, **values) -> None:
    path = folder / "calibration" / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_round_trip_keeps_every_bit(made, model, frames, to_batch, tmp_path) -> None:
    assert not is_calibrated(tmp_path)
    made.save(tmp_path)
    assert is_calibrated(tmp_path)
    again = load_calibration(tmp_path, "abc")
    kept, found = (x.calibrated.layer.state_dict() for x in (made, again))
    assert kept.keys() == found.keys()
    assert all(torch.equal(kept[name], found[name]) for name in kept)
    assert (again.calibrated.layer.forces is again.calibrated.layer.energy) == (model.force_head is None)
    assert replace(again, calibrated=made.calibrated) == made
    assert (again.calibrated.energy, again.calibrated.forces) == (made.calibrated.energy, made.calibrated.forces)
    batch = to_batch(frames)
    for mode in ("flag", "halt"):
        (old, threshold), (new, other) = made.decision(mode), again.decision(mode)
        assert threshold == other
        assert torch.equal(old.force_sigma(model, batch), new.force_sigma(model, batch))


def test_a_second_save_replaces_the_first(made, tmp_path) -> None:
    made.save(tmp_path)
    replace(made, halt=None, levels=replace(made.levels, halt=None)).save(tmp_path)
    again = load_calibration(tmp_path, "abc")
    assert again.halt is None
    with pytest.raises(UncertaintyError, match="no halt threshold"):
        again.decision("halt")
    assert sorted(p.name for p in (tmp_path / "calibration").iterdir()) == ["calibration.json", "posterior.safetensors"]


def test_refusals_name_the_line_to_type(made, tmp_path) -> None:
    with pytest.raises(UncertaintyError, match="not calibrated") as absent:
        load_calibration(tmp_path, "abc")
    made.save(tmp_path)
    with pytest.raises(UncertaintyError, match="weights have changed") as changed:
        load_calibration(tmp_path, "abd")
    for error in (absent, changed):
        assert error.value.hint == f"equimd calibrate {tmp_path} --data FRAMES"
    edit(tmp_path, version=FORMAT_VERSION + 1)
    with pytest.raises(UncertaintyError, match=f"reads up to {FORMAT_VERSION}"):
        load_calibration(tmp_path, "abc")
    edit(tmp_path, version=FORMAT_VERSION, posterior_sha256="0")
    with pytest.raises(UncertaintyError, match="not of one calibration"):
        load_calibration(tmp_path, "abc")
    edit(tmp_path, kind="poem")
    with pytest.raises(UncertaintyError, match="is not a calibration"):
        load_calibration(tmp_path, "abc")
    (tmp_path / "calibration" / "calibration.json").write_text("{")
    with pytest.raises(UncertaintyError, match="cannot be read"):
        load_calibration(tmp_path, "abc")


def test_damage_is_found(made, tmp_path) -> None:
    folder = made.save(tmp_path)
    edit(tmp_path, flag={"value": 1.0})
    with pytest.raises(UncertaintyError, match="incomplete"):
        load_calibration(tmp_path, "abc")
    edit(tmp_path, flag=None)
    with pytest.raises(UncertaintyError, match="incomplete"):
        load_calibration(tmp_path, "abc")
    made.save(tmp_path)
    kept = json.loads((folder / "calibration.json").read_text())
    for key in ("compositions", "elements", "data_sha256", "created", "versions", "report", "state_point", "levels"):
        for value in ([["C2H6O"]], 1.5):
            edit(tmp_path, **{key: value})
            with pytest.raises(UncertaintyError, match="incomplete"):
                load_calibration(tmp_path, "abc")
        edit(tmp_path, **{key: kept[key]})
    for part in ({"forces": {"zms": "1", "coverage_95": 0.9}}, {"data": [1]}, {"dynamics": {"maxima": ["x"]}}):
        edit(tmp_path, report={**kept["report"], **part})
        with pytest.raises(UncertaintyError, match="incomplete"):
            load_calibration(tmp_path, "abc")
    edit(tmp_path, report=kept["report"])
    for key, value in {"screen": ["1"] * 36, "exact": None, "error": 1.0, "trajectory": [0.5]}.items():
        edit(tmp_path, frames={**kept["frames"], key: value})
        with pytest.raises(UncertaintyError, match="incomplete"):
            load_calibration(tmp_path, "abc")
    made.save(tmp_path)
    content = bytearray((folder / "posterior.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "posterior.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        load_calibration(tmp_path, "abc")


def test_thresholds_and_levels_belong_together(made) -> None:
    with pytest.raises(UncertaintyError, match="below the screen's level"):
        replace(made, levels=replace(made.levels, flag=2 * made.flag.value))


def test_an_error_bound_becomes_a_threshold_on_the_score(made) -> None:
    decision, threshold = made.error_decision(0.15)
    assert threshold * made.error.multiplier == pytest.approx(0.15)
    assert decision.check(threshold) > decision.level > 0
    for bound in (0.0, -1.0, np.nan):
        with pytest.raises(UncertaintyError, match="error bound"):
            made.error_decision(bound)


def test_a_calibration_that_kept_no_frames_opens(made, tmp_path) -> None:
    path = made.save(tmp_path) / "calibration.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in ("frames", "test_frames")}))
    again = load_calibration(tmp_path, "abc")
    assert again.frames is None and again.flag == made.flag


def test_other_compositions_are_named(made) -> None:
    assert made.unlike("CH4O") is None
    text = str(made.unlike("C2H6O", "H2O", "CH4", "C2H6O"))
    assert text.startswith("C2H6O, CH4: not a composition")
    assert "(CH4O, H2O)" in text
