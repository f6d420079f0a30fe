"""From a molecule to a certified potential: the loop, in order. Every stage can be gone on with; see rounds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equimd.config import read_config
from equimd.data.frames import Frames
from equimd.data.given import absolute
from equimd.data.paths import selection
from equimd.data.readers.opening import resolve
from equimd.data.readers.structures import read_structures
from equimd.data.state import read_state
from equimd.errors import ConfigError, DataError, RunError
from equimd.files import check_output, check_writable, locked, new_folder, understood, write_atomic
from equimd.guard.certificate import load_certificate, save_certificate
from equimd.guard.certificate import words as certificate_words
from equimd.labels.pool import Executor
from equimd.machine import cores
from equimd.methods import check_method
from equimd.progress import duration
from equimd.run import RUN_FILE, Run, free_name
from equimd.tasks.audit.expected import Calibrated
from equimd.tasks.audit.of_run import make_executor
from equimd.tasks.audit.tries import Tries
from equimd.tasks.learn import rounds
from equimd.tasks.learn.calibrating import calibrate_model, draw_calibration
from equimd.tasks.learn.cheap import make_cheap, start_frames
from equimd.tasks.learn.exploring import explore, next_batch
from equimd.tasks.learn.journal import JOURNAL_FILE, Journal
from equimd.tasks.learn.molecules import conformers, given_conformers
from equimd.tasks.learn.report import PLOT_FILE, draw, rows, settings_text, table_head, table_row
from equimd.tasks.learn.settings import LearnSettings
from equimd.tasks.learn.work import TimeIsUpError, Work, label_counts

if TYPE_CHECKING:
    from ase import Atoms

SETTINGS_FILE, STARTS_FILE, RUN_FOLDER = "learn.yaml", "conformers.xyz", "run"
RESUMABLE = ("labels", "max_time", "call_limit", "jobs", "executor")  # settings that may change when it goes on
TIME_IS_UP = "the time is up in the middle of a stage"
EXPLORATION = 0.06  # share of the time for the runs of a round


@dataclass(frozen=True)
class Learned:
    """How a learn run ended.

    Attributes:
        status: ``certified`` or ``not_certified``. missing: what keeps it from being certified.
        certificate: None without one. labels: calls of the reference method by use. rounds: a row a model.
        run: the run folder of the model that is shipped; None if there is no calibrated one.
    """

    folder: Path
    status: str
    missing: list[str]
    certificate: dict[str, Any] | None
    labels: dict[str, int]
    rounds: list[dict[str, Any]]
    seconds: float
    run: Path | None = None
    words: str = ""


def default_folder(settings: LearnSettings) -> Path:
    """``learn/MOLECULE-300K-001``, or the first number that is free."""
    stem = "".join(c if c.isalnum() else "-" for c in Path(settings.molecule).stem).strip("-") or "molecule"
    return free_name(f"{stem}-{settings.temperature:g}K", "learn")


def begin(settings: LearnSettings, folder: Path, atoms: list[Atoms] | None = None, *, overwrite: bool = False) -> None:
    """Make the folder of a new run: settings and conformers, from which alone it goes on.

    Args:
        atoms: conformers, where they are given themselves.
        overwrite: replace another run that the folder holds.

    Raises:
        ConfigError: no molecule, no such method, or fewer labels than a certificate takes.
        DataError: the molecule or the data cannot be read. RunError: the folder holds something.
    """
    if not settings.molecule:
        raise ConfigError("no molecule", hint="equimd learn ethanol, a structure file, or SMILES")
    reads = (settings.molecule, *settings.data)
    resume = f"equimd learn --resume {folder}"
    check_output(folder, overwrite, made=("learn run", SETTINGS_FILE), resume=resume, reads=reads)
    for name in settings.data:
        resolve(selection(name)[0])
    if settings.executor == "local":
        check_method(settings.calculator)
    if settings.cheap_method is not None:
        check_method(settings.cheap_method, "--cheap")
    molecules = conformers(settings.molecule, seed=settings.seed) if atoms is None else given_conformers(atoms)
    rounds.check_labels(settings, len(molecules))
    state, *others = (read_state(each.info, where=settings.molecule) for each in molecules)
    if any(other != state for other in others):
        raise DataError("its structures differ in charge or multiplicity", where=settings.molecule)
    settings = settings.changed(
        charge=settings.charge or state.charge,
        spin=settings.spin or state.spin,
        data=absolute(settings.data),
        preset=settings.size,  # more time later on does not change the model
    )
    new_folder(folder)
    lines = []
    for each in molecules:
        lines += [str(len(each)), "Angstrom"]
        for symbol, x in zip(each.get_chemical_symbols(), each.positions.tolist(), strict=True):
            lines.append(f"{symbol:<2} {x[0]!r} {x[1]!r} {x[2]!r}")
    write_atomic(folder / STARTS_FILE, "\n".join(lines) + "\n")
    write_atomic(folder / SETTINGS_FILE, settings_text(settings))  # last: from here on it can be gone on with


def reopen(folder: Path, given: dict[str, Any]) -> LearnSettings:
    """The settings of a run to go on with, with more time or labels if given.

    Raises:
        RunError: not such a folder. ConfigError: a setting that cannot change.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise RunError("is not a learn run to go on with", where=str(folder), hint="the folder given by --out")
    check_writable(folder)
    if wrong := [k for k in given if k not in RESUMABLE]:
        option = "--" + wrong[0].replace("_", "-")
        raise ConfigError(f"{option} cannot change when a run goes on", where="--resume", hint="leave it out")
    settings = LearnSettings.parse(read_config(path), where=str(path))
    if given:
        settings = LearnSettings.parse(given, where="command line", base=settings)
        write_atomic(path, settings_text(settings))
    return settings


def learn(
    folder: Path,
    settings: LearnSettings,
    *,
    executor: Executor | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Learned:
    """Go through the stages in a folder made by :func:`begin`; those finished before are not done again.

    Args:
        executor: where labels are computed; by default processes of this machine.
        say: told a line now and then. progress: told stage, done, total.

    Raises:
        DataError: the reference method fails. EquimdError: the time does not suffice to learn anything.
    """
    with locked(folder):
        return _learn(folder, settings, executor, say, progress)


def molecules_of(folder: Path, settings: LearnSettings) -> tuple[list[Atoms], Frames]:
    """The conformers of a run, and the first as a frame with its charge and multiplicity."""
    found = read_structures(folder / STARTS_FILE)
    charge, spin = np.array([settings.charge]), np.array([settings.spin])
    return found, Frames.build(found[0].numbers, found[0].positions[None], charge=charge, spin=spin)


def _learn(
    folder: Path,
    settings: LearnSettings,
    executor: Executor | None,
    say: Callable[[str], None] | None,
    progress: Callable[[str, int, int], None] | None,
) -> Learned:
    molecules, template = molecules_of(folder, settings)
    asked = executor or make_executor(settings, settings.calculator)
    work = Work(settings, folder, Journal(folder), asked, template)
    work.say, work.progress = say or work.say, progress or work.progress
    before = torch.get_num_threads()
    torch.set_num_threads(int(work.journal.decide("machine", lambda: {"threads": cores()})["threads"]))
    try:
        return _loop(work, molecules)
    except TimeIsUpError as error:
        return _ended(work, [str(error) or TIME_IS_UP])
    finally:
        torch.set_num_threads(before)
        work.journal.note_time()
        if executor is None:
            asked.close()


def interrupted(folder: Path) -> Learned:
    """Where a run that was interrupted stands."""
    journal = Journal(folder)
    told = (label_counts(journal), rows(journal), round(journal.noted_seconds, 1))
    return Learned(folder, "interrupted", ["it was interrupted"], None, *told)


def standing(folder: Path) -> Learned:
    """Where a learn run stands, read from its folder: as it ended, or ``interrupted`` where it is not at an end.

    Raises:
        RunError: not such a folder, or damaged. ConfigError: its settings are none.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise RunError("is not a learn run", where=str(folder), hint="the folder given by --out")
    settings, journal = LearnSettings.parse(read_config(path), where=str(path)), Journal(folder)
    run, certificate = folder / RUN_FOLDER, None
    if (run / RUN_FILE).is_file():
        certificate = load_certificate(run, Run.open(run).load_model()[1]["sha256"])
    with understood(folder / JOURNAL_FILE):
        told = (label_counts(journal), rows(journal), round(journal.noted_seconds, 1), run if run.is_dir() else None)
        status, missing = _reached(journal, settings.max_time)
    if certificate is not None:
        return Learned(folder, "certified", [], certificate, *told, words=certificate_words(certificate))
    return Learned(folder, status, missing, None, *told)


def _reached(journal: Journal, max_time: float) -> tuple[str, list[str]]:
    """Status of a run without a certificate, and what is missing: as decided, else how far it is."""
    audits = [r for name, r in journal.results.items() if name.startswith("audit-")]
    number = len(rows(journal)) - 1
    after, before = journal.decision(f"after-audit-{number}"), journal.decision(f"next-{number}")
    if after.get("do") == "stop":
        return "not_certified", [*(audits[-1]["missing"] if audits else []), str(after["why"])]
    if before.get("do") == "stop":
        return "not_certified", [str(before["why"])]
    if journal.noted_seconds >= max_time:
        return "not_certified", [TIME_IS_UP]
    last = list(journal.results)[-1:] or ["none"]
    return "interrupted", [f"it is not at an end: the last stage that was finished is {last[0]}"]


def _loop(work: Work, molecules: list[Any]) -> Learned:
    s, number = work.settings, 0
    rounds.first_labels(work, molecules)
    rounds.given_labels(work)
    work.say(rounds.costs(work))
    if s.cheap_method is not None:
        made = make_cheap(work, molecules)
        work.say(f"cheap frames: {made['frames']} by {made['theory']}")
    starts, words = start_frames(work, molecules)
    pretrained = rounds.pretrain(work)
    rounds.seed(work, pretrained, molecules)
    rounds.train(work, 0, rounds.FIRST * s.max_time, pretrained)
    draw_calibration(work, starts)
    if not rounds.attempts(work) and (needed := rounds.audit_seconds(work, cost_of(work))) > work.left:
        work.say(
            f"warning: an audit of runs of {s.run_length} steps takes about {duration(needed)}, and "
            f"{duration(max(work.left, 0))} are left: there will be no certificate without more --max-time"
        )
    while True:
        calibrate_model(work, number, halt=False)
        known, cost = Calibrated.of(work.model_path(number)), cost_of(work)
        explored = explore(work, number, known, starts, cost, EXPLORATION * s.max_time)
        decided = rounds.what_next(work, number, known, explored, cost)
        work.journal.once(f"explored-{number}", lambda e=explored: e.summary())  # type: ignore[misc]
        for line in [*(table_head() if number == 0 else []), table_row(work.journal, number)]:
            work.say(line)
        draw(rows(work.journal), s.share, work.folder / PLOT_FILE)
        if decided["do"] == "stop":
            return _ended(work, [decided["why"]])
        if decided["do"] == "audit":
            result = _audit(work, number, decided, starts)
            if result.get("certified"):
                return _certified(work, result, number, words)
            decided = rounds.after_audit(work, number, result, cost)
            if decided["do"] == "stop":
                return _ended(work, [*result["missing"], decided["why"]])
        if decided["batch"]:
            chosen = next_batch(work, number, known, explored, decided["batch"])
            rounds.label_batch(work, number, chosen, known)
        number += 1
        rounds.train(work, number, decided["seconds"], work.model_path(number - 1))


def _audit(work: Work, number: int, decided: dict[str, Any], starts: Frames) -> dict[str, Any]:
    """Thresholds, then the audit at the one that is shipped; without one there is nothing to audit."""
    thresholds = calibrate_model(work, number, halt=True)
    if thresholds["refused"]:
        return {"certified": False, "missing": [f"no halt threshold: {thresholds['refused']}"]}
    known = Calibrated.of(work.model_path(number))
    result = rounds.make_audit(work, number, decided, known, starts)
    verdict = "certified" if result["certified"] else "; ".join(result["missing"])
    work.say(f"audit, try {decided['attempt']}: {verdict}")
    return result


def cost_of(work: Work) -> float:
    """Seconds a replica step of guarded runs, as measured in the last ones; at least a little."""
    found = [float(r["cost"]) for r in work.journal.results.values() if "cost" in r]
    return max(found[-1] if found else 1e-3, 1e-6)


def _certified(work: Work, result: dict[str, Any], number: int, starts: str) -> Learned:
    known = Calibrated.of(work.model_path(number))
    found = rounds.certificate(work, result, known, starts)
    save_certificate(work.model_path(number), found)
    run = _ship(work, number)
    save_certificate(work.folder, found)
    return _result(work, "certified", [], found.to_json(), run, found.words)


def _ended(work: Work, missing: list[str]) -> Learned:
    """Without a certificate: the last calibrated model is shipped all the same."""
    numbers = [int(n.rsplit("-", 1)[1]) for n in work.journal.results if n.startswith("calibrate-")]
    run = _ship(work, max(numbers)) if numbers else None
    return _result(work, "not_certified", missing, None, run, "")


def _ship(work: Work, number: int) -> Path:
    """Copy a model to ``run``, without its checkpoint."""
    target, part = work.folder / RUN_FOLDER, work.folder / f".{RUN_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(work.model_path(number), part, ignore=shutil.ignore_patterns("checkpoint"))
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    Tries(Run.open(target).path, rounds.tries(work)).save()
    return target


def _result(
    work: Work, status: str, missing: list[str], certificate: dict[str, Any] | None, run: Path | None, words: str
) -> Learned:
    journal = work.journal
    told = (work.labels, rows(journal), round(journal.seconds, 1))
    return Learned(work.folder, status, missing, certificate, *told, run, words)
