"""The stages of learn, one function each, and what is decided between them."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equimd.config import ReadingSettings
from equimd.data.batch import Batch
from equimd.data.dataset import ArrayDataset, DatasetInfo
from equimd.data.frames import Frames
from equimd.data.given import open_given
from equimd.data.store import StoreDataset
from equimd.errors import ConfigError, DataError
from equimd.guard.certificate import Certificate, Claim, Finding
from equimd.guard.score import exact_scores
from equimd.labels.label import Label
from equimd.run import Run
from equimd.shown import digits
from equimd.tasks.audit.expected import Calibrated
from equimd.tasks.audit.of_run import certificate_of
from equimd.tasks.audit.task import AuditPlan, audit, best_plan, plan_audit
from equimd.tasks.calibrate.task import FEW
from equimd.tasks.learn.calibrating import FRAMES, calibration_files, dynamics
from equimd.tasks.learn.cheap import cheap_frames
from equimd.tasks.learn.exploring import Explored, whitened
from equimd.tasks.learn.settings import LearnSettings
from equimd.tasks.learn.training import changes, in_words, train_model
from equimd.tasks.learn.work import Work
from equimd.uq.bounds import Trials, confidence_of, likely_probability, trials_needed
from equimd.uq.rows import RowModel
from equimd.uq.selection import choose

if TYPE_CHECKING:
    from ase import Atoms

SEED_FRAMES, FEWEST_SEED = 60, 20  # labels before the first model
VALIDATION = 8  # one in so many of these is for validation
CANDIDATES = 300  # cheap frames that the seed is chosen from
PRETRAINING, FIRST, ROUND = 0.15, 0.1, 0.06  # shares of the time for trainings
SEED_TIME = 0.15  # share of the time for the first labels
RIDGE = 1e-8  # of the mean of a matrix's diagonal, added to it: weights that no row depends on
RATTLE = 0.06  # Angstrom: how far conformers are rattled where there are no cheap frames
BATCH = (10, 40)  # labels of a round, fewest and most
MARGIN = 1.3  # on what an audit is expected to take
HOPE = 0.5  # of that: with less time left, no audit is begun
PRETRAINED = "cheap"
COPIES = 8  # of the molecule that the model is timed with


def claim_of(work: Work) -> Claim:
    """What is to be certified."""
    s = work.settings
    return Claim(s.error, s.share, s.false_halt_rate)


def check_labels(settings: LearnSettings, conformers: int) -> None:
    """Refuse fewer labels than the shortest way to a certificate takes.

    Raises:
        ConfigError: how many that are, and for what.
    """
    audit_, train_ = trials_needed(0, settings.share, confidence_of(1)), conformers + FEWEST_SEED
    if settings.labels < (least := train_ + FRAMES + audit_):
        raise ConfigError(
            f"a certificate takes {least} labels at least: {train_} to train on, {FRAMES} to calibrate with, {audit_} "
            f"to audit, not {settings.labels}",
            where="labels",
            hint="more --labels, or a larger --share of bad frames, which takes fewer to audit",
        )


def first_labels(work: Work, molecules: list[Atoms]) -> dict[str, Any]:
    """The conformers themselves, labelled: whether the reference method works, and what it costs."""
    frames = work.at(np.array([a.positions for a in molecules]))
    return work.label("conformers", "train", frames, np.arange(len(molecules)))


def given_labels(work: Work) -> None:
    """The frames that the reference method labelled before, as a stage: checked, and known from then on.

    Raises:
        DataError: other atoms, another method, or frames without labels.
    """
    if work.settings.data:
        work.journal.once("given", lambda: _given(work))


def _given(work: Work) -> dict[str, Any]:
    from equimd.data.convert import write_frames

    names, theory = work.settings.data, str((work.journal.result("conformers") or {})["theory"])
    data = open_given(names, ReadingSettings())
    where = ", ".join(names)
    stated = str(data.info.extra.get("theory", ""))
    if stated and stated != theory:
        raise DataError(f"labelled by {stated}, the reference is {theory}", where=where, hint="leave --data out")
    frames, template = data.frames(), work.template
    if frames.numbers.shape[1:] != template.numbers.shape[1:] or not (frames.numbers == template.numbers).all():
        raise DataError("is of another molecule, or its atoms are in another order", where=where)
    if not (frames.has_energy & frames.has_forces).all():
        raise DataError("some frames have no energy or forces", where=where, hint="leave them out")
    for k in range(len(frames)):
        frame = frames.take([k])
        if work.store.get(frame) is None:
            work.store.put(frame, Label(float(frame.energy[0]), frame.forces[0], theory))
    block = ArrayDataset(frames, DatasetInfo(str(work.data_path("given")), "labelled"), np.asarray(data.trajectory))
    write_frames(work.data_path("given"), block, theory=theory, source="equimd learn")
    return {"use": "given", "labelled": len(frames), "failed": 0}


def costs(work: Work) -> str:
    """What the reference method costs a frame beside the model, in words."""
    from equimd.config import parse_config
    from equimd.model.build import build_model

    asked = work.journal.result("conformers") or {}
    reference = asked["seconds"] / max(asked["labelled"] + asked["failed"], 1)
    config = parse_config({"preset": work.settings.size}).model
    elements = tuple(int(z) for z in np.unique(work.template.numbers))
    model = build_model(config.model_copy(update={"elements": elements}))
    frames = work.at(np.repeat(work.template.positions, COPIES, 0))
    batch = Batch.from_frames(frames, model.cutoff, dtype=model.dtype)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        model.evaluate(batch)
        times.append((time.perf_counter() - began) / COPIES)
    model_time = f"the model about {_time(min(times))} (uncompiled, {COPIES} at once)"
    return f"{asked['theory']} takes {_time(reference)} a frame, {model_time}"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{digits(1e3 * seconds)} ms"


def pretrain(work: Work, preset: str | None = None) -> Path | None:
    """A model of the cheap frames, of the size asked for or another; None without them."""
    if work.settings.cheap_method is None:
        return None
    seconds = min(PRETRAINING * work.settings.max_time, 0.4 * work.left)
    name, changed = PRETRAINED, {}
    if preset is not None:
        name, changed = f"{PRETRAINED}-{preset}", {"preset": preset}
    train_model(work, name, [cheap_frames(work)], seconds, changed=changed)
    return work.model_path(name)


def seed(work: Work, pretrained: Path | None, molecules: list[Atoms]) -> None:
    """The frames of the first labels: the most informative of the cheap ones, else rattled conformers; labelled."""
    s = work.settings
    count = work.journal.decide("seed", lambda: {"labels": _seed_size(work)})["labels"]

    def chosen() -> dict[str, Any]:
        if pretrained is None:
            rng = np.random.default_rng([s.seed, 7])
            base = np.array([molecules[k % len(molecules)].positions for k in range(count)])
            positions = base + rng.normal(0.0, RATTLE, base.shape)
        else:
            data = StoreDataset(cheap_frames(work))
            rng = np.random.default_rng([s.seed, 8])
            rows = np.sort(rng.permutation(len(data))[:CANDIDATES])
            candidates = data.frames(rows)
            shown = work.journal.result(f"train-{PRETRAINED}") or {}
            noise = (float(shown["val_energy_mae"]), float(shown["val_forces_mae"]))
            positions = candidates.positions[_first_choice(pretrained, candidates, count, noise)]
        return {"positions": positions.tolist()}

    positions = np.array(work.journal.once("choose-seed", chosen)["positions"])
    val = np.zeros(len(positions), bool)
    val[np.random.default_rng([s.seed, 9]).permutation(len(positions))[:: max(VALIDATION, 1)]] = True
    for name, rows in (("validation", np.flatnonzero(val)), ("seed", np.flatnonzero(~val))):
        work.label(name, "train", work.at(positions[rows]), rows)


def _seed_size(work: Work) -> int:
    """A third of the labels that calibration and a first audit leave, as far as there is time to have them labelled."""
    smallest = trials_needed(0, work.settings.share, confidence_of(1))
    in_time = SEED_TIME * work.left / max(work.label_seconds(1), 1e-9)
    wanted = min((work.labels_left - FRAMES - smallest) // 3, in_time)
    return int(np.clip(wanted, FEWEST_SEED, SEED_FRAMES))


def _first_choice(pretrained: Path, candidates: Frames, count: int, noise: tuple[float, float]) -> list[int]:
    """Before any label of the reference, all that is known of the weights is how large a cheap frame's rows are: one
    frame of average rows is what the prior counts for."""
    model, _ = Run.open(pretrained).load_model()
    rows = whitened(model, candidates, noise, RowModel(model, "both").width)
    average = torch.zeros(rows[0].shape[1], rows[0].shape[1], dtype=torch.float64)
    for each in rows:
        average += each.T @ each / len(rows)
    average.diagonal().add_(RIDGE * average.diagonal().mean())
    return list(choose(rows, torch.linalg.inv(average), count).rows)


def train(work: Work, number: int, seconds: float, init: Path | None) -> dict[str, Any]:
    """A model of all labels for training so far, from the last model; of another size from a model of cheap frames."""
    changed = changes(work, number)
    if (said := in_words(changed)) is not None:
        work.say(said)
    values = changed["values"]
    if values.get("preset") != work.journal.decision(f"changes-{number - 1}").get("values", {}).get("preset"):
        init = pretrain(work, values["preset"])
    files = [work.data_path(name) for name in training_stages(work, number)]
    return train_model(work, number, files, seconds, val=work.data_path("validation"), init=init, changed=values)


def training_stages(work: Work, number: int) -> list[str]:
    """The stages whose labels a model is trained on: those there were when its training began."""

    def known() -> dict[str, Any]:
        results = work.journal.results
        wanted = ("given", "conformers", "seed", *(f"round-{k}" for k in range(number)))
        names = [name for name in wanted if name in results]
        joined = [n for n, r in results.items() if n.startswith("audit-") and not r["certified"]]
        return {"stages": [*names, *joined]}

    return list(work.journal.decide(f"data-{number}", known)["stages"])


def label_batch(work: Work, number: int, chosen: dict[str, Any], known: Calibrated) -> dict[str, Any]:
    """Label a batch; before any training on it, compare with what was predicted for it: honest coverage."""
    positions = np.array(chosen["positions"])
    work.label(f"round-{number}", "train", work.at(positions), chosen["run"], chosen_from=number)

    def covered() -> dict[str, Any]:
        frames = StoreDataset(work.data_path(f"round-{number}")).frames()
        return coverage(known, frames)

    return work.journal.once(f"coverage-{number}", covered)


def coverage(known: Calibrated, frames: Frames) -> dict[str, Any]:
    """Of labelled frames, the share whose largest force error is within the calibrated bound, 0.9 in domain."""
    predictions = known.predictions(frames)
    score = exact_scores(known.calibration.calibrated, predictions)[0]
    errors = predictions.max_force_error
    bound = known.calibration.error.multiplier * score
    return {
        "frames": len(frames),
        "covered": float((errors <= bound).mean()),
        "median_error": float(np.median(errors)),
        "largest_error": float(errors.max()),
    }


def audit_seconds(work: Work, cost: float) -> float:
    """What an audit is expected to take: the first runs for its threshold, its own runs, the labels."""
    s = work.settings
    confidence = confidence_of(attempts(work) + 1)
    draws = trials_needed(0, s.share, confidence)
    runs = max(draws, trials_needed(2, s.false_halt_rate, confidence)) + FEW
    return MARGIN * (cost * runs * s.run_length + work.label_seconds(draws))


def attempts(work: Work) -> int:
    """Audits made so far."""
    return sum(name.startswith("audit-") for name in work.journal.results)


def expected_bad(work: Work, known: Calibrated, explored: Explored) -> float:
    """The share of bad frames at the target temperature to plan an audit for: what the sigmas predict of the frames
    that the exploration saw there, and no less than what the errors of the calibration's frames make likely: of few
    frames the sigmas of a tail are not known."""
    s = work.settings
    target = np.flatnonzero(np.isclose(explored.kelvin, s.temperature))
    calibration = open_given(calibration_files(work), ReadingSettings()).frames()
    errors = known.predictions(calibration).max_force_error
    seen = likely_probability(int((errors > s.error).sum()), len(errors))
    return max(known.bad_share(explored.frames.take(target), s.error), seen)


def what_next(work: Work, number: int, known: Calibrated, explored: Explored, cost: float) -> dict[str, Any]:
    """After the exploration of a model: an audit, another round, or the end; decided once.

    An audit where it is likely to show the claim; another round while its labels and its time leave enough for an
    audit; an audit all the same where they do not; else the end.
    """
    s = work.settings
    expected = expected_bad(work, known, explored)

    def decide() -> dict[str, Any]:
        attempt, left, time_for_audit = attempts(work) + 1, work.labels_left, audit_seconds(work, cost)
        smallest = trials_needed(0, s.share, confidence_of(attempt))
        in_time = work.left > time_for_audit
        plan = plan_audit(claim_of(work), attempt, expected, 0.0, most=left)
        found: dict[str, Any] = {"expected_bad": expected}
        if plan is not None and in_time:
            return {**found, "do": "audit", **_plan_json(plan)}
        spare = left - smallest
        seconds = min(0.5 * (work.left - time_for_audit), ROUND * s.max_time)
        batch = int(np.clip(spare // 2, *BATCH))
        if spare >= BATCH[0] and work.left > time_for_audit + work.label_seconds(batch) + 2 * ROUND * s.max_time:
            return {**found, "do": "learn", "batch": batch, "seconds": seconds}
        plan = best_plan(claim_of(work), attempt, expected, most=left)
        if plan is not None and work.left > HOPE * time_for_audit:
            return {**found, "do": "audit", **_plan_json(plan)}
        why = f"{left} labels are left, an audit takes {smallest}" if left < smallest else "the time is up"
        return {**found, "do": "stop", "why": why}

    return work.journal.decide(f"next-{number}", decide)


def after_audit(work: Work, number: int, result: dict[str, Any], cost: float) -> dict[str, Any]:
    """After an audit that showed too little: another round, on its frames too, or the end; decided once."""
    s = work.settings

    def decide() -> dict[str, Any]:
        left, time_for_audit = work.labels_left, audit_seconds(work, cost)
        smallest = trials_needed(0, s.share, confidence_of(attempts(work) + 1))
        if left < smallest:
            return {"do": "stop", "why": f"{left} labels are left, another audit takes {smallest}"}
        seconds = min(0.7 * (work.left - time_for_audit), 2 * ROUND * s.max_time)
        if seconds <= 0:
            return {"do": "stop", "why": "the time left does not suffice for another round and its audit"}
        return {"do": "learn", "batch": int(np.clip((left - smallest) // 2, 0, BATCH[1])), "seconds": seconds}

    return work.journal.decide(f"after-audit-{number}", decide)


def _plan_json(plan: AuditPlan) -> dict[str, Any]:
    return {"attempt": plan.attempt, "draws": asdict(plan.draws), "runs": asdict(plan.runs)}


def _plan_of(values: dict[str, Any]) -> AuditPlan:
    return AuditPlan(values["attempt"], Trials(**values["draws"]), Trials(**values["runs"]))


def make_audit(work: Work, number: int, decided: dict[str, Any], known: Calibrated, starts: Frames) -> dict[str, Any]:
    """The planned audit of a model; a stage of its own. Its frames are a data set for the case that it fails."""
    plan = _plan_of(decided)
    stage = f"audit-{plan.attempt}"

    def work_() -> dict[str, Any]:
        found = audit(
            known.model,
            known.shipped(),
            starts,
            claim_of(work),
            plan,
            dynamics(work, "audit", number=plan.attempt),
            lambda frames: work.ask(stage, frames),
            folder=work.folder / "runs" / stage,
            progress=work.progress,
            checked=work.check_time,
        )
        from equimd.data.convert import write_frames

        write_frames(work.data_path(stage), ArrayDataset(found.labelled), source="equimd learn")
        missing = found.finding.missing(claim_of(work))
        return {
            "use": "audit",
            "labelled": found.finding.draws,
            "failed": found.finding.failed,
            "model": number,
            "certified": not missing,
            "missing": missing,
            "finding": asdict(found.finding),
            "seconds": found.seconds,
        }

    return work.journal.once(stage, work_)


def certificate(work: Work, result: dict[str, Any], known: Calibrated, starts: str) -> Certificate:
    """The certificate of an audit that showed the claim."""
    method = str((work.journal.result("conformers") or {})["theory"])
    finding = Finding(**result["finding"])
    return certificate_of(known, claim_of(work), finding, dynamics(work, "audit"), starts, method, work.labels)


def tries(work: Work) -> list[dict[str, Any]]:
    """All audits made, as the run that is shipped keeps them."""
    made = [r for n, r in work.journal.results.items() if n.startswith("audit-")]
    asked = {**asdict(claim_of(work)), "by": "learn"}
    return [{"attempt": r["finding"]["attempt"], "asked": asked, "plan": None, "finding": r["finding"]} for r in made]
