"""Calibrations side by side: places and names, which one is taken for a simulation, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from equimd.errors import ConfigError, UncertaintyError
from equimd.files import file_digest
from equimd.guard.calibration import Calibration, StatePoint
from equimd.guard.choosing import Wanted, choose_calibration
from equimd.guard.saved import load_calibration, name_of, place_for, places
from equimd.guard.wording import make_watch
from tests.guard.test_calibration import calibrated

POINT = StatePoint(300.0, "langevin", 0.5, 0.01)
SHORT, LONG, HOT = "300K-langevin-0.002ps", "300K-langevin-0.2ps", "600K-langevin-0.002ps"


def kept(run: Path, made: Calibration) -> Path:
    return made.save(run, place_for(run, made.called))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 300 K for 4 and for 400 steps, of 600 K, of constant energy, and of older weights."""
    run, first = tmp_path_factory.mktemp("named"), calibrated("conservative")
    kept(run, first)
    kept(run, replace(first, halt=replace(first.halt, run_length=400)))
    kept(run, replace(first, state_point=replace(POINT, temperature_K=600.0)))
    kept(run, replace(first, state_point=StatePoint(300.0, "nve", 0.5), name="quiet"))
    kept(run, replace(first, halt=None, levels=replace(first.levels, halt=None), model_sha256="old", name="a"))
    return run


def wanted(steps: int, formula: str = "H2O", **point: float | str | None) -> Wanted:
    return Wanted(replace(POINT, **point), steps, formula)  # type: ignore[arg-type]


def test_each_has_a_place_and_none_takes_anothers(run: Path) -> None:
    there = places(run)
    assert list(there) == [SHORT, LONG, HOT, "a", "quiet"], "the first one first"
    assert there[SHORT] == run / "calibration" and there["quiet"] == run / "calibration" / "quiet"
    assert place_for(run, "quiet") == there["quiet"] and place_for(run, "new") == run / "calibration" / "new"
    assert load_calibration(run, "abc").called == SHORT
    assert load_calibration(run, "abc", "quiet").state_point.ensemble == "nve"
    assert load_calibration(run, "old").halt is None, "the first of these weights"
    with pytest.raises(UncertaintyError, match="no calibration 'loud'") as error:
        load_calibration(run, "abc", "loud")
    assert f"there is {SHORT}, " in str(error.value.hint) and "--name loud" in str(error.value.hint)
    with pytest.raises(UncertaintyError, match="weights have changed"):
        load_calibration(run, "abc", "a")
    digest = file_digest(there["quiet"] / "calibration.json")
    assert name_of(run, digest) == "quiet" and name_of(run, "0") is None


@pytest.mark.parametrize(
    ("asked", "name", "fits"),
    [
        (wanted(4), SHORT, True),
        (wanted(5), LONG, True),
        (wanted(401), LONG, False),
        (wanted(3, temperature_K=600.0), HOT, True),
        (wanted(3, temperature_K=580.0), HOT, False),
        (wanted(3, ensemble="nve"), "quiet", True),
        (wanted(3, formula="C2H6O"), SHORT, False),
        (wanted(3, dt_fs=1.0), SHORT, False),
    ],
)
def test_the_one_that_fits_is_taken(run: Path, asked: Wanted, name: str, fits: bool) -> None:
    chosen = choose_calibration(run, "abc", asked)
    assert chosen.calibration.called == name and chosen.folder == places(run)[name]
    assert chosen.note.startswith(f"calibration: {name}, the {'one' if fits else 'nearest'} of the run's 4")
    assert (chosen.missing is None) == fits
    if chosen.missing is not None:
        assert f"--run-length {asked.steps}` makes one beside those there are" in chosen.missing
        assert f"--temperature {asked.dynamics.temperature_K:g} " in chosen.missing


def test_what_is_asked_for_by_name_is_taken(run: Path) -> None:
    chosen = choose_calibration(run, "abc", wanted(4), "quiet")
    assert chosen.note == "calibration: quiet, as asked" and chosen.missing is None, "another one fits"
    with pytest.raises(UncertaintyError, match="no calibration 'loud'"):
        choose_calibration(run, "abc", wanted(4), "loud")


def test_a_simulation_says_which_and_what_is_missing(run: Path) -> None:
    def watch(name: str | None = None, asked: str | None = None, **point: float):
        return make_watch(run, "abc", asked, dynamics=replace(POINT, **point), steps=4, formula="H2O", calibration=name)

    found = watch()
    assert found.about["calibration"] == SHORT and not found.warnings
    assert found.source == run / "calibration"
    assert any("the one of the run's 4 that is made for such runs" in note for note in found.notes)
    hot = watch(temperature_K=600.0)
    assert hot.about["calibration"] == HOT and not hot.warnings
    (differs, missing) = watch(temperature_K=700.0).warnings
    assert "calibrated for 600 K, this run has 700 K" in differs and "--temperature 700" in missing
    (differs,) = watch("quiet").warnings
    assert "calibrated for nve, this run has langevin" in differs
    with pytest.raises(ConfigError, match="calibration has no threshold"):
        watch("quiet", "off")


def test_a_calibration_from_before_names_is_the_first(tmp_path: Path) -> None:
    made = calibrated("conservative")
    path = made.save(tmp_path) / "calibration.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k != "name"}))
    before = path.read_bytes()
    assert list(places(tmp_path)) == [SHORT]
    kept(tmp_path, replace(made, name="second"))
    assert path.read_bytes() == before and list(places(tmp_path)) == [SHORT, "second"]
    path.write_text("{")
    assert list(places(tmp_path)) == ["calibration", "second"]
    assert choose_calibration(tmp_path, "abc", wanted(4)).calibration.called == "second"
    path.write_text(json.dumps({**values, "name": ["x"]}))
    with pytest.raises(UncertaintyError, match="incomplete"):
        load_calibration(tmp_path, "abc", next(iter(places(tmp_path))))


def test_a_folder_without_a_json_is_none(tmp_path: Path) -> None:
    (tmp_path / "calibration" / "half").mkdir(parents=True)
    assert places(tmp_path) == {} and place_for(tmp_path, "any") == tmp_path / "calibration"
