"""Errors of the model on what is read off its trajectory: a simulation by a kept run, known answers, refusals."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import equimd
from equimd.cli.main import app
from equimd.errors import RunError, UncertaintyError
from equimd.md.observables import dihedrals, distances
from equimd.md.recorded import Recorded
from equimd.shown import with_errors
from equimd.tasks.trajectory import measure
from equimd.tasks.trajectory.measure import measured
from equimd.tasks.trajectory.source import open_source
from equimd.tasks.trajectory.uncertain import ModelErrors, Uncertain
from equimd.units import KB
from equimd.uq.draws import REWEIGHTED, EnergyDraws
from tests.golden.saved import SAVED
from tests.golden.shell import quick_layers

KELVIN = 600.0


@pytest.fixture(scope="module")
def bath(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two replicas of water in a bath, beside the run that moved them."""
    folder = tmp_path_factory.mktemp("bath")
    shutil.copytree(SAVED / "conservative", folder / "run")
    with pytest.MonkeyPatch.context() as patch, quick_layers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr("equimd.tasks.simulate.plot.simulation", lambda *_, **__: None)
        equimd.simulate(
            folder / "run", str(SAVED / "water.start.xyz"), temperature=KELVIN, steps=240, save_every=3, replicas=2,
            uq_threshold="off", compile="off", threads=1, out=folder / "md",
        )  # fmt: skip
    return folder / "md"


@pytest.fixture(scope="module")
def found(bath: Path) -> measure.Measured:
    return equimd.analyse(bath).found


def test_value_model_and_sampling(bath: Path, found: measure.Measured, tmp_path: Path) -> None:
    """In Python, in the terminal, as JSON and as CSV."""
    about = found.model
    assert about is not None and found.no_model == "" and about.calibration.startswith("1200K-langevin")
    assert (about.temperature, about.n_draws, about.n_frames) == (KELVIN, 200, 162)
    assert 0 < about.effective <= 1 and about.spread > 0 and about.energy is not None
    energy = found.means["potential_energy"]
    assert energy.model is not None and energy.model > 0 and found.means["temperature"].model is None
    assert all(b.length.model is not None and b.length.model > 0 for b in found.bonds)
    h = found.distances
    assert h is not None and h.model is not None and h.error is not None and h.model.shape == h.y.shape == h.error.shape
    assert ((h.model > 0) <= (h.y > 0)).all() and h.model.max() > 0
    told = CliRunner().invoke(app, ["traj", "analyse", str(bath), "--out", str(tmp_path / "out")])
    assert told.exit_code == 0 and "200 draws from the posterior of" in " ".join(told.stdout.split()), told.output
    assert with_errors(energy.mean, energy.model, energy.error, 3) in told.stdout
    written = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert written["potential_energy_eV"]["model"] == energy.model and written["model_errors"]["method"] == about.method
    assert written["bonds"][0]["length_A"]["model"] == found.bonds[0].length.model
    head, first = (tmp_path / "out" / "bonds.csv").read_text().splitlines()[:2]
    assert head.endswith(",model_A") and float(first.split(",")[-1]) == pytest.approx(found.bonds[0].length.model)


def test_the_order_of_saved_frames_does_not_matter(bath: Path, found: measure.Measured) -> None:
    source = open_source(bath)
    turned = {r: Recorded.of(run.read().take(slice(None, None, -1))) for r, run in source.runs.items()}
    other = measured(replace(source, runs=turned))
    one, two = found.means["potential_energy"], other.means["potential_energy"]
    assert two.mean == pytest.approx(one.mean) and two.model == pytest.approx(one.model, rel=1e-4)
    for bond, same in zip(found.bonds, other.bonds, strict=True):
        assert same.length.mean == pytest.approx(bond.length.mean)
        assert same.length.model == pytest.approx(bond.length.model, rel=1e-4)
    assert other.model is not None and found.model is not None and other.model.method == found.model.method


def test_a_file_in_the_folder_is_of_the_simulation(bath: Path) -> None:
    one = equimd.analyse(bath / "trajectory-001.h5md").found
    same = equimd.analyse(bath, replica=1).found
    assert one.model is not None and one.bonds[0].length == same.bonds[0].length


def test_conformers_of_uncertain_energy(ethanol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that put one of three equal wells up by w: its share is 1/(1 + 2 exp(w/kT)), and so its free energy."""
    source = open_source(ethanol)
    (torsion,) = equimd.analyse(ethanol).found.torsions
    positions = next(iter(source.runs.values())).read().positions
    angles = dihedrals(positions, np.array([torsion.atoms]))[:, 0]
    raised = (angles > 0) & (angles < 120)
    kt, w = KB * 300.0, 0.01 * np.random.default_rng(2).standard_normal(200)
    energy = raised[:, None] * w
    draws = EnergyDraws(energy - energy.mean(0), energy.mean(0))
    ensembles = draws.ensembles(300.0)
    assert ensembles.method == REWEIGHTED
    about = ModelErrors("run", "name", 300.0, 300.0, 200, len(angles), ensembles.method, 1.0, draws.spread)
    monkeypatch.setattr(measure, "uncertain", lambda *_: Uncertain(ensembles, about))
    known = open_source(SAVED / "simulation").settings
    assert known is not None
    settings = known.model_copy(update={"temperature": 300.0})
    found = measured(replace(source, settings=settings))
    (told,) = found.torsions
    share = 1 / (1 + 2 * np.exp(w / kt))
    well = next(x for x in told.wells if round(x.centre) == 60)
    assert well.population.model == pytest.approx(share.std(), rel=1e-6)
    others = [x.population.model for x in told.wells if x is not well]
    assert others == pytest.approx([share.std() / 2] * 2, rel=1e-6), "what one loses, the others share"
    assert told.free_energy is not None and told.free_energy_model is not None and told.share_model is not None
    bins = np.flatnonzero(told.share > 0.05)
    at = bins[(told.angle[bins] > 0) & (told.angle[bins] < 120)]
    assert told.share_model[at].sum() == pytest.approx(share.std(), rel=1e-6)
    np.testing.assert_allclose(told.free_energy_model[at], 3 * kt * share.std(), rtol=1e-6)
    assert told.free_energy[bins].max() < 0.3 * kt and np.isnan(told.free_energy[told.share == 0]).all()
    assert all(b.length.model is not None for b in found.bonds)
    lengths = distances(positions, np.array([0]), np.array([1]))
    assert found.bonds[0].length.model == pytest.approx(float(ensembles.errors(lengths)[0]))


def test_why_there_are_none(bath: Path, ethanol: Path, flagged: Path, tmp_path: Path) -> None:
    shutil.copytree(bath, tmp_path / "nve")
    file = tmp_path / "nve" / "simulation.yaml"
    file.write_text(file.read_text().replace("ensemble: langevin", "ensemble: nve"))
    shutil.copytree(bath, tmp_path / "moved")
    shutil.copytree(bath.parent / "run", tmp_path / "uncalibrated")
    shutil.rmtree(tmp_path / "uncalibrated" / "calibration")
    file = tmp_path / "moved" / "simulation.yaml"
    file.write_text(file.read_text().replace(str(bath.parent / "run"), str(tmp_path / "nowhere")))
    for given, options, why in (
        (ethanol, {}, "the frames are not of a simulation that is known"),
        (bath, {"uncertainty": False}, "they were not asked for"),
        (f"{bath}@0", {"replica": 0}, "a single frame"),
        (tmp_path / "nve", {}, "nve has none"),
        (tmp_path / "moved", {}, "there is no such run folder"),
        (flagged, {"run": str(flagged.parent / "direct")}, "not the slope of its energy"),
    ):
        done = equimd.analyse(given, **options)
        assert done.found.model is None and why in done.found.no_model, done.found.no_model
        assert done.found.bonds[0].length.model is None
        assert f"no errors of the model: {done.found.no_model}" in done.table()
        assert done.to_json()["model_errors"] is None
    again = equimd.analyse(tmp_path / "moved", run=str(bath.parent / "run")).found
    assert again.model is not None
    with pytest.raises(UncertaintyError, match="is not calibrated"):
        equimd.analyse(bath, run=str(tmp_path / "uncalibrated"))
    with pytest.raises(RunError, match="not the one of this simulation"):
        equimd.analyse(bath, run=str(SAVED / "direct"))


def test_two_errors_in_words() -> None:
    assert with_errors(1.53071, 0.0044, 0.00214) == "1.5307 ± 0.0044 ± 0.0021"
    assert with_errors(1.53071, 0.00004, 0.0214) == "1.53071 ± 0.00004 ± 0.02140"
    assert with_errors(1.5, 1e-9, 0.02) == "1.50000 ± 0.00000 ± 0.02000"
    assert with_errors(1.0, 0.02, float("inf")) == "1.000 ± 0.020 ± ?"
    assert with_errors(100.0, 0.0, 0.0, 0) == "100" and with_errors(5.0, None, 0.1) == "5.00 ± 0.10"
