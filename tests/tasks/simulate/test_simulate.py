"""``equimd simulate``: what it writes and says, when it halts, flags, warns and refuses."""

from __future__ import annotations

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read as read_atoms
from ase.io import write
from ase.units import fs
from typer.testing import CliRunner, Result

from equimd.cli.main import app
from equimd.files import load_tensors
from equimd.guard.saved import load_calibration, place_for
from equimd.md import trajectory
from equimd.md.integrators import VelocityVerlet
from equimd.md.trajectory import read
from equimd.run import Run
from equimd.tasks.simulate import session
from tests.training.test_training import start
from tests.training.toy import WATER, toy_config, toy_file

from .conftest import water

pytestmark = pytest.mark.usefixtures("no_plot")
runner = CliRunner()
CONTRACT = {
    "status", "steps", "time_ps", "ns_per_day", "ns_per_day_total", "temperature_K_mean", "drift_meV_per_atom_per_ps",
    "drift_error", "n_flagged", "halted",
}  # fmt: skip
HALTED = {"replica", "step", "reason", "score", "threshold", "atoms"}


def simulate(*arguments: str | Path) -> Result:
    return runner.invoke(app, ["simulate", *map(str, arguments)])


def test_json_and_the_files_of_a_run(calibrated: Path, molecule: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = simulate(
        calibrated, molecule, "--steps", 40, "--replicas", 2, "--save-every", 2, "--uq-threshold", "flag",
        "--extxyz", "--out", out, "--json",
    )  # fmt: skip
    assert told.exit_code == 0, told.stderr
    summary = json.loads(told.stdout)
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary.keys() >= CONTRACT
    assert (summary["status"], summary["steps"], summary["time_ps"], summary["halted"]) == ("completed", 40, 0.02, [])
    assert summary["ns_per_day_total"] == pytest.approx(2 * summary["ns_per_day"])
    assert summary["uncertainty"]["mode"] == "flag"
    assert summary["bonds"]["n_unstable"] == 0
    distances = summary["distances"]
    assert sum(distances["h_per_A"]) * (distances["r_A"][1] - distances["r_A"][0]) == pytest.approx(1, abs=1e-4)
    assert summary["velocity_autocorrelation"]["c"][0] == 1
    frames = read(out / "trajectory-001.h5md")
    assert frames.step.tolist() == list(range(0, 41, 2))
    names = {"potential_energy", "kinetic_energy", "conserved", "temperature", "force_sigma", "flagged"}
    assert frames.observables.keys() == names
    assert summary["temperature_K_mean"] == pytest.approx(
        np.mean([read(out / f"trajectory-00{k}.h5md").observables["temperature"] for k in (0, 1)])
    )
    # per-atom sigmas stand where they were computed, and their maximum is the frame's
    sigma, atoms = frames.observables["force_sigma"], frames.atoms["force_sigma"]
    known = np.isfinite(atoms).all(1)
    assert (np.isnan(atoms).all(1) == ~known).all()
    np.testing.assert_allclose(atoms[known].max(1, initial=0), sigma[known], rtol=1e-6)
    written = read_atoms(out / "trajectory-001.extxyz", ":")
    assert len(written) == 21
    np.testing.assert_allclose(written[7].positions, frames.positions[7], atol=1e-7)
    np.testing.assert_allclose(written[7].get_forces(), frames.forces[7], atol=1e-7)
    np.testing.assert_allclose(written[7].get_velocities() * fs, frames.velocities[7], atol=1e-7)
    assert written[7].get_potential_energy() == pytest.approx(frames.observables["potential_energy"][7])


def test_times_in_another_unit_are_refused(trained: Path, molecule: Path, tmp_path: Path) -> None:
    for option in (("--tau", 0.05), ("--dt", 0.0005)):
        told = simulate(trained, molecule, "--ensemble", "nose-hoover", *option, "--out", tmp_path / "out")
        assert told.exit_code == 2 and " fs" in told.stderr and "in fs" in told.stderr
    assert not (tmp_path / "out").exists()


def test_a_lost_conserved_quantity_is_exit_code_3(
    trained: Path, molecule: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    energy = VelocityVerlet.conserved
    monkeypatch.setattr(VelocityVerlet, "conserved", lambda *a: energy(*a) + 1e3 * (a[2].step > 4))
    told = simulate(trained, molecule, "--ensemble", "nve", "--steps", 7, "--out", tmp_path / "out", "--json")
    assert told.exit_code == 3 and "conserved quantity has changed by 1e+03 eV" in told.stderr
    assert (halt := json.loads(told.stdout)["halted"][0])["code"] == "drift" and halt["step"] == 7


def test_mdanalysis_reads_it(trained: Path, molecule: Path, tmp_path: Path) -> None:
    mda = pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed")
    out = tmp_path / "out"
    assert simulate(trained, molecule, "--steps", 20, "--out", out).exit_code == 0
    universe = mda.Universe(str(out / "start.xyz"))
    universe.load_new(str(out / "trajectory.h5md"), format="H5MD")
    assert len(universe.trajectory) == 3
    np.testing.assert_allclose(universe.trajectory[2].positions, read(out / "trajectory.h5md").positions[2], atol=1e-5)


def test_a_halt_is_exit_code_3_and_says_what_to_do(calibrated: Path, molecule: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = simulate(
        calibrated, molecule, "--temperature", 600, "--steps", 150, "--replicas", 3, "--save-every", 1,
        "--uq-threshold", "0.28", "--out", out, "--json",
    )  # fmt: skip
    assert told.exit_code == 3, told.stderr
    assert "uq-threshold 0.28 is taken as 0.28 eV/A" in told.stderr
    summary = json.loads(told.stdout)
    assert summary["status"] == "halted"
    halt = summary["halted"][0]
    assert halt.keys() >= HALTED
    assert halt["score"] > halt["threshold"] == pytest.approx(0.28 / summary["uncertainty"]["multiplier"])
    last = " ".join(told.stderr.strip().splitlines()[-2:])
    for part in (
        "halted: ", f"replica {halt['replica']} at step {halt['step']} ", f"{halt['score']:.4g} above",
        f"({halt['score'] / halt['threshold']:.2f} times it)", f"equimd data label {out}/flagged.extxyz",
        f"equimd train --init {calibrated} --data ",
    ):  # fmt: skip
        assert part in last
    # the refused geometry is elsewhere; what is kept is the frame before it, to the last bit
    flagged = read_atoms(out / "flagged.extxyz", ":")
    assert [a.info["replica"] for a in flagged] == [h["replica"] for h in summary["halted"]]
    scores = flagged[0].arrays["atom_score"]
    assert scores.max() == pytest.approx(halt["score"], rel=1e-6)
    assert np.flatnonzero(flagged[0].arrays["responsible"]).tolist() == halt["atoms"]
    assert (scores > halt["threshold"]).nonzero()[0].tolist() == halt["atoms"]
    frames = read(out / f"trajectory-00{halt['replica']}.h5md")
    assert frames.step[-1] == halt["step"] - 1
    state, _ = load_tensors(out / "restart.safetensors", "md-restart")
    assert np.array_equal(state["state/positions"][halt["replica"]].numpy(), frames.positions[-1])
    assert (frames.observables["force_sigma"] <= halt["threshold"]).all()
    again = simulate("--resume", out)
    assert (again.exit_code, " ".join(again.stderr.strip().splitlines()[-2:])) == (3, last)


def test_flagged_events_are_counted_and_the_run_goes_on(calibrated: Path, molecule: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = simulate(
        calibrated, molecule, "--temperature", 600, "--steps", 150, "--uq-threshold", "0.28eV/A",
        "--on-exceed", "flag", "--out", out,
    )  # fmt: skip
    assert told.exit_code == 0, told.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["n_flagged_steps"] > summary["n_flagged"] >= 1
    assert len(read_atoms(out / "flagged.extxyz", ":")) == summary["n_flagged"]
    assert "flagged in" in " ".join(told.stderr.splitlines()[-2:])
    assert "is taken as" not in told.stderr


def test_auto_flags_and_halts_where_the_halt_threshold_alone_does(
    calibrated: Path, molecule: Path, tmp_path: Path
) -> None:
    def run(name: str, *more: object) -> tuple[dict, str]:
        told = simulate(
            calibrated, molecule, "--temperature", 3000, "--steps", 120, "--replicas", 3, "--save-every", 1, "--out",
            tmp_path / name, "--json", *more,
        )  # fmt: skip
        return json.loads(told.stdout), told.stderr

    (both, text), (alone, _), (noted, _) = run("a"), run("b", "--uq-threshold", "halt"), run("c", "--on-exceed", "flag")
    assert both["halted"] == alone["halted"] and both["status"] == alone["status"] == "halted", "to the last bit"
    assert both["n_flagged"] > 0 == alone["n_flagged"] and noted["n_flagged_steps"] > both["n_flagged_steps"]
    assert all(h["code"] != "force sigma" for h in noted["halted"])
    uq = both["uncertainty"]
    assert uq["mode"] == "halt" and uq["flag"]["threshold"] < uq["threshold"] and "flag" not in alone["uncertainty"]
    assert f"flags frames above a force sigma of {uq['flag']['threshold']:.4g} eV/A, halts a replica above" in text
    assert uq["exact_share"] >= alone["uncertainty"]["exact_share"]
    first, flags = both["first_flagged"], read_atoms(tmp_path / "a" / "flagged.extxyz", ":")
    assert {a.info["action"] for a in flags} == {"flag", "halt"}
    assert first["step"] == min(a.info["first_step"] for a in flags if a.info["action"] == "flag")
    frames = [[read(tmp_path / name / f"trajectory-00{k}.h5md") for k in range(3)] for name in "ab"]
    saved = judged = 0
    for one, other in zip(*frames, strict=True):
        assert np.array_equal(one.positions, other.positions)
        seen = one.observables["flagged"] > 0
        assert np.array_equal(seen, one.observables["force_sigma"] > uq["flag"]["threshold"])
        saved, judged = saved + int(seen.sum()), judged + len(seen)
    assert saved == both["n_flagged_steps"]
    assert both["flagged_share"] == pytest.approx(saved / (judged + len(both["halted"])))
    (again, _), _ = (run("a", "--overwrite"), simulate("--resume", tmp_path / "a"))
    assert again["halted"] == both["halted"]


def test_a_run_begun_with_one_threshold_goes_on_with_it(calibrated: Path, molecule: Path, tmp_path: Path) -> None:
    """As those of versions in which ``auto`` was the halt threshold alone."""
    for name, flags in (("one", False), ("two", True)):
        out = tmp_path / name
        assert simulate(calibrated, molecule, "--steps", 4, "--out", out).exit_code == 0
        if not flags:
            shutil.rmtree(out)
            assert simulate(calibrated, molecule, "--steps", 4, "--uq-threshold", "halt", "--out", out).exit_code == 0
            settings = out / "simulation.yaml"
            settings.write_text(settings.read_text().replace("uq_threshold: halt", "uq_threshold: auto"))
        told = simulate("--resume", out, "--steps", 8)
        assert told.exit_code == 0, told.stderr
        assert ("flag" in json.loads((out / "summary.json").read_text())["uncertainty"]) == flags


def test_physical_checks_watch_without_a_threshold(trained: Path, tmp_path: Path) -> None:
    fast = water()
    fast.set_velocities(np.array([[0, 0, 0], [0, 0.5, 0], [0, 0, 0]]) / fs)
    write(tmp_path / "fast.extxyz", fast)
    for phase in ((), ("--equilibrate", "20fs")):
        out = tmp_path / f"out{len(phase)}"
        told = simulate(
            trained, tmp_path / "fast.extxyz", "--steps", 40, "--uq-threshold", "off", "--out", out, "--json", *phase
        )
        assert told.exit_code == 3, told.stderr
        (halt,) = json.loads(told.stdout)["halted"]
        assert "flying apart" in halt["reason"]
        assert (halt["step"] < 0) == bool(phase)
        assert "flying apart" in " ".join(told.stderr.splitlines()[-2:])


def test_auto_takes_the_calibrated_halt_threshold_else_flags(calibrated: Path, molecule: Path, tmp_path: Path) -> None:
    def about(run: Path, *more: str) -> tuple[dict, str]:
        told = simulate(
            run, molecule, "--steps", 4, "--json", "--out", tmp_path / str(len(list(tmp_path.iterdir()))), *more
        )
        assert told.exit_code == 0, told.stderr
        return json.loads(told.stdout)["uncertainty"], told.stderr

    for more in ((), ("--uq-threshold", "auto")):
        found, text = about(calibrated, *more)
        assert (found["mode"], found["action"], found["alpha"], found["false_halt_bound"]) == ("halt", "halt", 0.1, 0.1)
        assert "in a run of 4 steps" in text
        assert "by mistake with a probability of at most 10 %" in text
        assert "warning" not in text
    found, text = about(calibrated, "--on-exceed", "flag")
    assert (found["mode"], found["action"]) == ("halt", "flag")
    found, text = about(calibrated, "--equilibrate", "2fs")
    assert found["false_halt_bound"] == pytest.approx(0.2)
    assert "8 steps are more than the 4" in text
    assert "at most 20 % instead of 10 %" in text
    copy = tmp_path / "no-halt"
    shutil.copytree(calibrated, copy)
    described = copy / "calibration" / "calibration.json"
    values = json.loads(described.read_text())
    described.write_text(json.dumps({**values, "halt": None, "levels": {**values["levels"], "halt": None}}))
    found, text = about(copy)
    assert (found["mode"], found["action"]) == ("flag", "flag")
    assert simulate(copy, molecule, "--uq-threshold", "halt").exit_code == 2


def test_what_differs_from_the_calibration_is_said(calibrated: Path, molecule: Path, tmp_path: Path) -> None:
    told = simulate(
        calibrated, molecule, "--steps", 0, "--temperature", 1000, "--dt", 0.25, "--ensemble", "nve",
        "--uq-threshold", "flag", "--out", tmp_path / "a",
    )  # fmt: skip
    assert (
        "calibrated for 300 K, langevin, time steps of 0.5 fs, this run has 1000 K, nve, 0.25 fs: the stated rate does "
        "not hold there"
    ) in told.stderr
    hydrogen = tmp_path / "h2.xyz"
    write(hydrogen, Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]))
    told = simulate(calibrated, hydrogen, "--steps", 0, "--friction", 0.02, "--out", tmp_path / "b")
    assert "H2: not a composition" in told.stderr
    assert "a friction of 0.01/fs, this run has 0.02/fs" in told.stderr


def test_the_calibration_that_fits_is_taken_and_kept_to(calibrated: Path, molecule: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(calibrated, run)
    first = load_calibration(run, Run.open(run).load_model()[1]["sha256"])
    hot = replace(first, name="hot", state_point=replace(first.state_point, temperature_K=600.0))
    hot.save(run, place_for(run, "hot"))
    told = simulate(run, molecule, "--temperature", 600, "--steps", 4, "--out", out, "--json")
    assert told.exit_code in (0, 3) and "calibration: hot, the one of the run's 2" in told.stderr
    assert json.loads(told.stdout)["uncertainty"]["calibration"] == "hot" and "warning" not in told.stderr
    nearer = replace(hot, name="nearer", flag=replace(hot.flag, alpha=0.02))
    (run / "calibration" / "hot").rename(run / "calibration" / "z")  # so that a new one comes before it
    nearer.save(run, place_for(run, "a"))
    assert session.reopen(out, {}).watch.about["calibration"] == "z"
    told = simulate(run, molecule, "--steps", 4, "--calibration", "z", "--out", tmp_path / "b", "--json")
    assert "calibration: z, as asked" in told.stderr and "calibrated for 600 K, this run has 300 K" in told.stderr
    told = simulate(run, molecule, "--calibration", "none", "--out", tmp_path / "c")
    assert told.exit_code == 2 and "no calibration 'none'" in told.stderr


def test_an_uncalibrated_run_is_warned_of_or_refused(trained: Path, molecule: Path, tmp_path: Path) -> None:
    told = simulate(trained, molecule, "--steps", 0, "--out", tmp_path / "a")
    assert told.exit_code == 0
    assert "not calibrated: the physical checks alone" in told.stderr
    for more in (("--uq-threshold", "auto"), ("--uq-threshold", "0.1"), ("--on-exceed", "flag")):
        told = simulate(trained, molecule, "--steps", 0, *more, "--out", tmp_path / "b")
        assert told.exit_code == 2
        assert f"equimd calibrate {trained} --data" in told.stderr
        assert not (tmp_path / "b").exists()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Barely trained models of other kinds: one of energies alone, one with direct forces."""
    folder = tmp_path_factory.mktemp("others")
    data = toy_file(folder / "train.xyz")
    start(toy_config(data, num_epochs=1, forces_weight=0.0), folder / "energies").fit()
    start(toy_config(data, num_epochs=1, forces="direct"), folder / "direct").fit()
    return folder


def test_refusals(trained: Path, others: Path, molecule: Path, tmp_path: Path) -> None:
    write(tmp_path / "co.xyz", Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]))
    write(tmp_path / "overlap.xyz", Atoms("OHH", WATER * 0.2))
    write(tmp_path / "two.xyz", [water(), water()])
    write(tmp_path / "mixed.xyz", [water(), Atoms("HOH", WATER)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "bad.yaml").write_text("temperatur: 3\n")
    for arguments, message in (
        ((trained, tmp_path / "co.xyz"), "elements the model never saw: C"),
        ((trained, tmp_path / "co.xyz", "--relax"), "elements the model never saw: C"),
        ((trained, tmp_path / "overlap.xyz"), "overlap"),
        ((trained, tmp_path / "two.xyz", "--replicas", 3), "2 structures for 3 replicas"),
        ((trained, tmp_path / "mixed.xyz", "--replicas", 2), "another molecule, atom order or cell"),
        ((trained, tmp_path / "absent.xyz"), "no such file"),
        ((tmp_path / "absent", molecule), "no such run folder"),
        ((trained,), "no structure file"),
        ((), "no run folder"),
        ((others / "energies", molecule), "energies alone"),
        ((trained, molecule, "--uq-threshold", "15kcal/mol"), "forces are in eV/A"),
        ((trained, molecule, "--uq-threshold", "off", "--on-exceed", "halt"), "no threshold to act on"),
        ((trained, molecule, "--steps", 5, "--time", 1), "give one"),
        ((trained, molecule, "--ensemble", "nose-hoover", "--temperature", 0), "temperature of 0"),
        ((trained, molecule, "--out", tmp_path / "full"), "not empty"),
        ((tmp_path / "bad.yaml",), "did you mean 'temperature'"),
        (("--resume", tmp_path / "full"), "not a simulation"),
        (("--resume", tmp_path / "full", "--out", tmp_path / "x"), "leave out the structure and --out"),
    ):
        told = simulate(*arguments)
        assert (told.exit_code, told.stdout) == (2, ""), (arguments, told.stderr)
        assert message in re.sub(r"\s+", " ", told.stderr), arguments
        assert "Traceback" not in told.stderr
    assert not (tmp_path / "simulations").exists()


def test_direct_forces_in_nve_and_large_steps_are_warned_of(others: Path, molecule: Path, tmp_path: Path) -> None:
    told = simulate(others / "direct", molecule, "--steps", 0, "--ensemble", "nve", "--dt", 2, "--out", tmp_path / "a")
    assert told.exit_code == 0, told.stderr
    assert "no energy is conserved" in told.stderr
    assert "a time step of 2 fs is 1/4.5 of the 9.0 fs" in told.stderr
    told = simulate(others / "direct", molecule, "--steps", 0, "--out", tmp_path / "b")
    assert "conserved" not in told.stderr
    assert "time step" not in told.stderr


def test_yaml_and_default_names(trained: Path, molecule: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = simulate("--template")
    assert template.exit_code == 0
    (tmp_path / "all.yaml").write_text(template.stdout.replace("run: ''", f"run: {trained}"))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        told = simulate("all.yaml", "water.xyz", "--steps", "0", "--seed", "7")
        assert told.exit_code == 0, told.stderr
    made = [Path(f"simulations/water-300K-00{k}") for k in (1, 2)]
    assert sorted(Path("simulations").iterdir()) == made
    first, second = (read(folder / "trajectory.h5md").velocities for folder in made)
    assert first.tolist() == second.tolist()
    assert "seed: 7" in (made[0] / "simulation.yaml").read_text()
    again = simulate(made[0] / "simulation.yaml", "--out", "again")
    assert again.exit_code == 0, again.stderr
    assert (Path("again/simulation.yaml")).read_text() == (made[0] / "simulation.yaml").read_text()


def test_a_full_disk_is_exit_code_1_and_loses_nothing(
    trained: Path, molecule: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", ("--steps", 60, "--save-every", 1)
    with monkeypatch.context() as patch:
        write_block, count = trajectory._append, []

        def fail(*arguments: object) -> None:
            count.append(1)
            if len(count) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            write_block(*arguments)

        patch.setattr(trajectory, "_append", fail)
        patch.setattr(trajectory, "BLOCK", 20)
        told = simulate(trained, molecule, *options, "--out", out)
    assert told.exit_code == 1
    assert "earlier frames are intact" in told.stderr
    assert read(out / "trajectory.h5md").step.tolist() == list(range(21))
    assert simulate("--resume", out).exit_code == 0
    assert simulate(trained, molecule, *options, "--out", tmp_path / "whole").exit_code == 0
    positions = read(out / "trajectory.h5md").positions
    assert np.array_equal(positions, read(tmp_path / "whole" / "trajectory.h5md").positions)


def test_too_small_a_disk_is_said(
    trained: Path, molecule: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 200})())
    told = simulate(trained, molecule, "--steps", 10, "--save-every", 1, "--out", tmp_path / "out")
    assert re.search(r"disk: about [\d.]+ kB of trajectories, 200 B free", told.stderr)
    assert "a larger --save-every" in told.stderr
    assert session.START_FILE in {p.name for p in (tmp_path / "out").iterdir()}
