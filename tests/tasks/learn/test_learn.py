"""The whole loop on water made of springs: certified, interrupted at many moments, by a method that often fails."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import SCFError, all_changes
from typer.testing import CliRunner

import equimd
from equimd import config, plots
from equimd.benchmarks.certificates import certificates_suite
from equimd.cli import main
from equimd.data.frames import Frames
from equimd.data.store import StoreDataset
from equimd.errors import EXIT_HALTED, ConfigError, DataError, RunError, UncertaintyError
from equimd.guard.calibration import StatePoint
from equimd.guard.certificate import load_certificate
from equimd.guard.wording import make_watch
from equimd.labels.label import Label, ask
from equimd.progress import Progress
from equimd.run import Run
from equimd.tasks.audit.of_run import audit_run
from equimd.tasks.audit.settings import AuditSettings
from equimd.tasks.calibrate import plots as calibration_plots
from equimd.tasks.learn import rounds, training
from equimd.tasks.learn.call import LearnResult
from equimd.tasks.learn.journal import JOURNAL_FILE, PLAN_FILE, Journal
from equimd.tasks.learn.molecules import conformers
from equimd.tasks.learn.settings import LearnSettings
from equimd.tasks.learn.task import Learned, begin, learn, reopen, standing
from equimd.tasks.learn.work import TimeIsUpError, Work, label_counts
from equimd.tasks.report.of_learn import shipped
from equimd.tasks.report.settings import ReportSettings
from tests.labels.methods import Springs
from tests.tasks.report.reading import PageReader
from tests.training.toy import SMALL, toy_file, toy_frames

NAME = __name__
#: Decisions that come from a clock, made beforehand: what they would be matters to nobody here.
PLAN = {
    "machine": {"threads": 1},
    "compile": {"runs": False},
    "cheap": {"frames": 80, "trajectories": 2, "turned": False},
    "train-cheap": {"num_epochs": 30, "compile": "off"},
    "train-0": {"num_epochs": 100, "compile": "off"},
    "explore-0": {"steps": 24},
    "next-0": {"expected_bad": 0.1, "do": "learn", "batch": 12, "seconds": 10.0},
    "train-1": {"num_epochs": 60, "compile": "off"},
}
TINY = {**SMALL, "num_features": 16, "batch_size_train": 8, "lr": 1e-2, "ema_decay": 0.9}


class Stiffer(Springs):
    """The cheap method: the same springs, a tenth stiffer."""

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {name: 1.1 * value for name, value in self.results.items()}


class Often(Springs):
    """A reference that fails on one frame in five."""

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        if int(abs(self.atoms.positions).sum() * 1e7) % 5 == 0:
            raise SCFError("not converged")


class Never(Springs):
    """A reference that fails on every frame."""

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        raise SCFError("not converged")


class Here:
    """Labels in this process, so that no test waits for others to start; counts its calls."""

    def __init__(self, calculator: str = f"{NAME}:Often") -> None:
        self.calculator, self.calls = calculator, 0

    def labels(self, frames: Mapping[int, Frames]) -> Iterator[tuple[int, Label]]:
        for key, frame in frames.items():
            self.calls += 1
            yield key, ask(self.calculator, frame)

    def close(self) -> None:
        return None


class Killed(BaseException):
    """The end of a process, as far as one process can say."""


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.PRESETS, "small", TINY)
        patch.setattr(plots, "curves", lambda *_, **__: None)
        patch.setattr(calibration_plots, "draw", lambda *_, **__: [])
        yield


def settings(**options: Any) -> LearnSettings:
    values = {
        "molecule": "water", "calculator": f"{NAME}:Often", "cheap": f"{NAME}:Stiffer", "preset": "small", "jobs": 1,
        "run_length": 40, "share": 0.25, "error": "0.5eV/A", "compile": "off", "false_halt_rate": 0.3, "max_time": "1h",
    }  # fmt: skip
    return LearnSettings.parse({**values, **options})


def start(folder: Path, **options: Any) -> LearnSettings:
    begin(settings(**options), folder)
    (folder / PLAN_FILE).write_text(json.dumps({"version": 1, "stages": PLAN}))
    return reopen(folder, {})


def back_to(stage: str, folder: Path, other: Path) -> None:
    """A copy of a learn folder as it was when a stage was finished, as far as its journal says."""
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("runs", "run"))
    journal = json.loads((other / JOURNAL_FILE).read_text())
    names = list(journal["stages"])
    journal["stages"] = {name: journal["stages"][name] for name in names[: names.index(stage) + 1]}
    (other / JOURNAL_FILE).write_text(json.dumps(journal))


def labels_of(folder: Path) -> dict[str, str]:
    """Every label there is, by its file: the content of its frame."""
    return {p.name: p.read_bytes().hex()[:8] for p in sorted((folder / "labels").iterdir())}


@pytest.fixture(scope="module")
def often(small: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Learned]:
    """An uninterrupted run whose reference often fails."""
    folder = tmp_path_factory.mktemp("learn") / "often"
    return folder, learn(folder, start(folder), executor=Here())


def test_certificate(often: tuple[Path, Learned]) -> None:
    folder, found = often
    assert found.status == "certified", found.missing
    c = found.certificate
    assert c is not None and c["share_bound"] < 0.25 and c["halts_bound"] < 0.3 and c["confidence"] >= 0.975
    assert c["bad"] == 0 and c["draws_passed"] >= 13 and c["largest_error_eV_per_A"] < 0.5
    assert c["run_length"] == 40 and c["temperature_K"] == 300 and c["method"] == "often"
    run = Run.open(folder / "run")
    assert load_certificate(run.path, c["model_sha256"]) == c == json.loads((folder / "certificate.json").read_text())
    assert run.load_model()[1]["sha256"] == c["model_sha256"]
    assert load_certificate(run.path, "other weights") is None
    assert "Certified against often" in found.words and "0 of " in found.words
    point = StatePoint(300.0, "langevin", 0.5, 0.01)
    watch = make_watch(run.path, c["model_sha256"], dynamics=point, steps=40, formula="H2O")
    assert found.words in watch.notes and watch.about["certificate"] == c
    assert watch.rule is not None and watch.rule.threshold == c["threshold"]["value"] and not watch.warnings
    loose = make_watch(run.path, c["model_sha256"], "50eV/A", dynamics=point, steps=40, formula="H2O")
    assert loose.about["own_halts"] == 0 and f"in 0 of {loose.about['own_runs']} runs of 40 steps" in loose.notes[1]


def test_labels_are_counted_and_kept_apart(often: tuple[Path, Learned]) -> None:
    folder, found = often
    counts = found.labels
    assert counts["failed"] > 0.1 * counts["total"], "one in five fails"
    assert sum(counts[k] for k in ("train", "calibrate", "audit", "failed")) == counts["total"]
    assert counts["total"] == len(list((folder / "labels").iterdir()))
    assert found.certificate is not None and found.certificate["draws_failed"] >= 0
    hashes = {
        name: set(StoreDataset(path).frames().content_hashes())
        for path in (folder / "data").iterdir()
        for name in [path.stem]
    }
    trained = set(Run.open(folder / "run").hashes("train")) | set(Run.open(folder / "run").hashes("val"))
    for name, own in hashes.items():
        if name.startswith(("calibration", "audit")):
            assert not own & trained, f"{name}: frames that are judged by were trained on"


def test_interrupted_at_many_moments_it_ends_the_same(often: tuple[Path, Learned], tmp_path: Path) -> None:
    """Every so many calls of progress the run dies; with the same plan it ends with the same labels and certificate."""
    folder, whole = often
    other = tmp_path / "again"
    back_to("train-0", folder, other)
    for path in (other / "labels", other / "models" / "0" / "calibration", other / "models" / "1"):
        shutil.rmtree(path)
    known = Journal(other).results
    for path in (other / "data").iterdir():
        if path.stem not in known:
            path.unlink()
    before, chosen = label_counts(Journal(other))["total"], reopen(other, {})
    executor, deaths, found = Here(), 0, None
    while found is None:
        left = [20 + 15 * deaths]

        def tick(*_: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        try:
            found = learn(other, chosen, executor=executor, progress=tick)
        except Killed:
            deaths += 1
    assert deaths >= 4
    assert executor.calls == whole.labels["total"] - before, "what was labelled before is not asked for again"
    assert found.certificate == whole.certificate
    assert found.labels == whole.labels
    assert len(labels_of(other)) == executor.calls and labels_of(other).keys() < labels_of(folder).keys()
    finished = learn(other, chosen, executor=executor)
    assert finished.certificate == whole.certificate and executor.calls == whole.labels["total"] - before


def test_fresh_runs_stand_beside_the_certificate(often: tuple[Path, Learned], tmp_path: Path) -> None:
    path, found = often
    others, executor = tmp_path / "others", Here()
    others.mkdir()
    begin(settings(seed=3), others / "learn")
    folders = [path, others / "learn"]
    table = certificates_suite.run(folders, tmp_path, tmp_path / "work", runs=12, executor=executor)
    rows = {r["name"]: r for r in json.loads((tmp_path / "certificates.json").read_text())["rows"]}
    value = {name.rsplit("/", 2)[1] + "/" + name.rsplit("/", 1)[1]: r["value"] for name, r in rows.items()}
    assert value["seed0/certified"] == 1 and value["seed3/certified"] == 0
    assert value["seed0/labels"] == found.labels["total"] and value["seed0/fresh_runs"] == 12
    halts, labelled = 12 * value["seed0/fresh_halts"], value["seed0/fresh_labelled"]
    assert executor.calls >= labelled > 0 and labelled <= 12
    assert value["seed0/fresh_largest"] > 0 and "seed3/fresh_bad" not in value
    low, high = rows["learn/water/300K-500meV-0_25/seed0/fresh_halts"]["interval"]
    assert low <= halts / 12 <= high
    text = table.read_text()
    assert "| `equimd learn water" in text and "| no |" in text and f" of {labelled:.0f}: " in text
    calls = executor.calls
    certificates_suite.run(folders, tmp_path, tmp_path / "work", runs=12, executor=executor)
    assert executor.calls == calls and table.read_text() == text  # what is measured is kept


def test_too_few_labels_end_without_a_certificate(often: tuple[Path, Learned], tmp_path: Path) -> None:
    other, executor = tmp_path / "few", Here()
    back_to("calibrate-0", often[0], other)
    plan = json.loads((other / PLAN_FILE).read_text())
    del plan["stages"]["next-0"]
    (other / PLAN_FILE).write_text(json.dumps(plan))
    spent = label_counts(Journal(other))["total"]
    found = learn(other, reopen(other, {"labels": spent + 5}), executor=executor)
    assert found.status == "not_certified" and found.certificate is None and executor.calls == 0
    assert found.missing == ["5 labels are left, an audit takes 13"]
    more = LearnResult(**vars(found)).ending.splitlines()[-1]
    assert more.endswith(f"equimd learn --resume {other} --max-time 120m --labels {2 * (spent + 5)}"), more
    assert found.run is not None and Run.open(found.run).load_model()


def test_time_that_is_up_is_said_and_can_be_added(tmp_path: Path) -> None:
    start(tmp_path / "short")
    chosen = reopen(tmp_path / "short", {"max_time": 1e-3})
    found = learn(tmp_path / "short", chosen, executor=Here())
    assert found.status == "not_certified" and "time is up" in found.missing[0]
    with pytest.raises(ConfigError, match="cannot change"):
        reopen(tmp_path / "short", {"temperature": 400.0})
    with pytest.raises(RunError, match="holds another learn run"):
        begin(settings(), tmp_path / "short")


@pytest.mark.parametrize(("left", "epochs"), [(60.0, 2), (15.0, None)])
def test_a_share_too_small_to_train_takes_what_is_left_or_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, epochs: int | None
) -> None:
    monkeypatch.setattr(training, "_seconds_per_epoch", lambda *_: 10.0)
    files = {"data": (str(toy_file(tmp_path / "a.xyz", 12)),), "val_data": (str(toy_file(tmp_path / "b.xyz", 4, 1)),)}
    work: Any = SimpleNamespace(settings=settings(), left=left)
    told = {**TINY, **files, "splits": (1.0, 0.0, 0.0), "energy_unit": "eV", "lr": training.FEW_RATE}
    if epochs is None:
        with pytest.raises(TimeIsUpError, match="15 s are left to train on 12 frames, of which an epoch takes 10.0 s"):
            training._plan(work, told, 5.0)
    else:
        assert training._plan(work, told, 5.0)["num_epochs"] == epochs


def test_a_method_that_always_fails_is_said_at_once(tmp_path: Path) -> None:
    name = f"{NAME}:Never"
    chosen = start(tmp_path / "broken", calculator=name)
    with pytest.raises(DataError, match="failed on all of 1 frames"):
        learn(tmp_path / "broken", chosen, executor=Here(name))


def test_what_cannot_end_well_is_said_before_anything_is_made(tmp_path: Path) -> None:
    for options, words in (
        ({"calculator": "nowhere:Nothing"}, "^--calculator: cannot import"),
        ({"cheap": "gfn3"}, "^--cheap: unknown calculator 'gfn3'"),
        ({"data": ("absent.xyz",)}, "no such file"),
        ({"data": ("absent.h5@-1",)}, "no such file"),
        ({"labels": 10}, r"a certificate takes \d+ labels at least: 21 to train on.*not 10"),
    ):
        with pytest.raises((ConfigError, DataError), match=words):
            begin(settings(**options), tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_audit_of_the_run_by_its_command_goes_on_counting(often: tuple[Path, Learned], tmp_path: Path) -> None:
    """The run keeps the tries of learn: an audit of its own is the next one, and holds to a higher confidence."""
    folder, found = often
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    claim = {"error": 0.5, "share": 0.3, "false_halt_rate": 0.3}
    asked = AuditSettings(starts=(str(folder / "conformers.xyz"),), calculator=f"{NAME}:Springs", **claim)
    first = audit_run(run, asked, executor=Here(f"{NAME}:Springs"), overwrite=True)
    assert found.certificate is not None and first.finding["attempt"] == found.certificate["try"] + 1
    assert first.finding["confidence"] == 1 - 0.05 / 2 ** first.finding["attempt"]
    assert first.labels["total"] == first.finding["draws"] >= 13
    if first.status == "certified":
        assert load_certificate(run, found.certificate["model_sha256"]) == first.certificate
        assert "the given structure" in first.words
    tries = json.loads((run / "audits.json").read_text())["tries"]
    assert [t["finding"] is not None for t in tries] == [True] * len(tries)

    def give_up(*_: Any) -> None:
        raise Killed

    for error in (0.4, 0.4, 0.45):  # given up, gone on with and given up again, and one of another claim
        with pytest.raises(Killed):
            audit_run(
                run, asked.changed(error=error), executor=Here(f"{NAME}:Springs"), progress=give_up, overwrite=True
            )
    made = json.loads((run / "audits.json").read_text())["tries"]
    assert [t["finding"] is not None for t in made] == [True] * len(tries) + [False, False]


def test_audits_that_cannot_be_had_are_refused(often: tuple[Path, Learned]) -> None:
    folder, _ = often
    with pytest.raises(ConfigError, match="no structures to start from"):
        audit_run(folder / "run", AuditSettings(), overwrite=True)
    with pytest.raises(UncertaintyError, match="no threshold to halt at|no halt threshold"):
        audit_run(folder / "models" / "0", AuditSettings(starts=(str(folder / "conformers.xyz"),)))
    with pytest.raises(UncertaintyError, match="not calibrated"):
        audit_run(folder / "models" / "cheap", AuditSettings(starts=(str(folder / "conformers.xyz"),)))


def test_frames_labelled_before_are_known_and_counted(tmp_path: Path) -> None:
    known = toy_file(tmp_path / "known.xyz", 6)
    chosen = start(tmp_path / "given", data=(str(known),), calculator=f"{NAME}:Springs")
    frames = toy_frames(6)
    executor = Here(f"{NAME}:Springs")
    work = Work(chosen, tmp_path / "given", Journal(tmp_path / "given"), executor, frames.take([0]))
    rounds.first_labels(work, conformers("water"))
    rounds.given_labels(work)
    assert work.labels["given"] == 6 and work.labels["total"] == 7 and work.labels_left == chosen.labels - 1
    again = work.ask("again", work.at(frames.positions))
    assert executor.calls == 1 and len(again.rows) == 6, "what is labelled is not asked for again"
    np.testing.assert_allclose(again.frames.energy, frames.energy)
    for data, what in ((toy_file(tmp_path / "mixed.xyz", 6, mixed=True), "another molecule"),
                       (toy_file(tmp_path / "bare.xyz", 6, forces=False), "no energy or forces")):  # fmt: skip
        other = Work(chosen.changed(data=(str(data),)), tmp_path, Journal(tmp_path), executor, frames.take([0]))
        other.journal.finish("conformers", {"theory": "springs"})
        with pytest.raises(DataError, match=what):
            rounds.given_labels(other)


def test_python_calls(often: tuple[Path, Learned], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A finished run is gone on with to the same result, and nothing is printed."""
    folder, found = often
    told: list[Progress] = []
    again = equimd.learn(resume=folder, progress=told.append)
    assert (again.status, again.certificate, again.words) == (found.status, found.certificate, found.words)
    assert again.to_json()["labels"] == found.labels and again.model().run.path == folder / "run"
    assert "certified" in again.table() and len(repr(again)) < 200
    words = again.ending.splitlines()[-1].removeprefix("use it: ").split()
    row = Journal(folder).result("cheap")["starts"][0]  # as the runs that were audited start
    assert words == ["equimd", "simulate", f"{folder}/run", f"{folder}/cheap/frames.h5@{row}", "--steps", "40"]
    done = CliRunner().invoke(main.app, [*words[1:], "--compile", "off", "--out", str(tmp_path / "simulated")])
    assert done.exit_code in (0, EXIT_HALTED) and (tmp_path / "simulated" / "summary.json").is_file()
    assert {p.kind for p in told if p.stage == "learn"} == {"line"}
    assert capfd.readouterr().out == ""
    with pytest.raises(ConfigError, match="leave out MOLECULE"):
        equimd.learn("water", resume=folder)
    with pytest.raises(ConfigError, match="did you mean 'max_time'"):
        equimd.learn("water", out=tmp_path / "x", max_tim=3)
    with pytest.raises(DataError, match="another molecule"):
        equimd.learn([molecule("H2O"), molecule("CH4")], out=tmp_path / "x")
    with pytest.raises(ConfigError, match="no structures to start from"):
        equimd.audit(again, overwrite=True)


def test_where_a_folder_stands(often: tuple[Path, Learned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, found = often
    read = standing(folder)
    for name in ("folder", "status", "missing", "certificate", "labels", "rounds", "run", "words"):
        assert getattr(read, name) == getattr(found, name), name
    assert read.seconds == round(json.loads((folder / JOURNAL_FILE).read_text())["seconds"], 1)
    hours = itertools.count(0.0, 3600.0)
    with monkeypatch.context() as patch:  # reading takes its time, which is not the run's
        patch.setattr("equimd.tasks.learn.journal.time", SimpleNamespace(monotonic=lambda: next(hours)))
        assert standing(folder).seconds == read.seconds
    back_to("coverage-0", folder, tmp_path / "half")
    half = standing(tmp_path / "half")
    assert half.status == "interrupted" and "coverage-0" in half.missing[0] and half.run is None
    assert len(half.rounds) == 1 and half.rounds[0]["coverage_90"] == found.rounds[0]["coverage_90"]
    plan = json.loads((tmp_path / "half" / PLAN_FILE).read_text())
    plan["stages"]["next-0"] = {"do": "stop", "why": "2 labels are left, an audit takes 13"}
    (tmp_path / "half" / PLAN_FILE).write_text(json.dumps(plan))
    assert standing(tmp_path / "half").missing == ["2 labels are left, an audit takes 13"]
    with pytest.raises(RunError, match="is not a learn run"):
        standing(tmp_path)


def test_report(often: tuple[Path, Learned], tmp_path: Path) -> None:
    folder, found = often
    equimd.report(folder, out=tmp_path / "learn.html")
    page = PageReader(tmp_path / "learn.html")
    for heading in ("What was reached", "Rounds", "The run that is shipped", "Test errors", "Thresholds"):
        assert heading in page.headings
    assert page.words.count(found.words) == 2 and str(found.labels["total"]) in page.words  # again with the run
    tested = shipped(
        found, found.run, LearnSettings.parse(config.read_config(folder / "learn.yaml")), ReportSettings()
    ).test
    assert (
        tested["n_known_frames"] == 0 and f"frames{tested['n_frames']:,}" in page.words
    )  # as they are, never trained on
    assert f"force MAE (meV/Å){tested['forces_mae_meV_per_A']:.4g}" in page.words
    assert page.layers("Bad frames expected")[0]["x"] == [row["train_labels"] for row in found.rounds]
    back_to("coverage-0", folder, tmp_path / "half")
    told = equimd.report(tmp_path / "half", out=tmp_path / "half.html")
    assert "No certificate: it is not at an end" in PageReader(tmp_path / "half.html").words
    assert told.left_out == ("The run that is shipped: no model has been calibrated yet",)
    (tmp_path / "half" / JOURNAL_FILE).write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        equimd.report(tmp_path / "half", out=tmp_path / "broken.html")
