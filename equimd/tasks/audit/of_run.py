"""``equimd audit``: a certificate for any calibrated run, or what is missing for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.data.given import structures_of
from equimd.errors import ConfigError, DataError, UncertaintyError
from equimd.files import check_output, locked
from equimd.guard.certificate import CERTIFICATE_FILE, Certificate, Claim, Finding, save_certificate
from equimd.labels.cluster import Cluster
from equimd.labels.ledger import Labelled, LabelStore, ask_for
from equimd.labels.pool import Executor, LocalPool
from equimd.machine import cores
from equimd.methods import check_method
from equimd.model.interface import check_data
from equimd.notices import doing, note
from equimd.run import Run
from equimd.shown import counted
from equimd.tasks.audit.expected import Calibrated
from equimd.tasks.audit.runs import Dynamics, evenly, guarded_runs
from equimd.tasks.audit.settings import AskSettings, AuditSettings
from equimd.tasks.audit.task import Audited, AuditPlan, audit, best_plan, plan_audit, start_rows
from equimd.tasks.audit.tries import Tries
from equimd.tasks.generate.sampling import unconstrained
from equimd.uq.bounds import Trials, confidence_of, trials_needed

FOLDER = "audits"
SURVEY_RUNS, SURVEY_STEPS, SURVEY_FRAMES = 16, 1000, 6  # unlabelled, to foresee the share of bad frames

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AuditedRun:
    """How an audit ended.

    Attributes:
        status: ``certified`` or ``not_certified``. missing: what keeps it from being certified.
        labels: calls of the reference method by use. expected: the share of bad frames that the sigmas predicted.
    """

    run: Path
    status: str
    missing: list[str]
    certificate: dict[str, Any] | None
    finding: dict[str, Any]
    labels: dict[str, int]
    expected: float
    words: str = ""


def make_executor(settings: AskSettings, calculator: str) -> Executor:
    """Where labels of a method are computed.

    Raises:
        ConfigError: a configuration of Parsl that is none, or Parsl is not installed.
    """
    kind, _, file = settings.executor.partition(":")
    if kind == "local":
        return LocalPool(calculator, settings.jobs or cores(), settings.call_limit)
    return Cluster(calculator, Path(file), settings.call_limit)


def audit_run(
    folder: Path,
    settings: AuditSettings,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> AuditedRun:
    """Audit a run at the threshold it halts at. A try is counted when it begins; one that was killed goes on.

    Args:
        overwrite: replace the certificate that the run has, if another try earns one.

    Raises:
        UncertaintyError: the run is not calibrated to halt, for one set of dynamics, or what it takes is more labels
            than there are.
        ConfigError, DataError: no starts, or starts of another molecule.
    """
    check_output(folder / CERTIFICATE_FILE, overwrite, option="")
    if settings.executor == "local" and executor is None:
        check_method(settings.calculator)
    with locked(folder):
        return _audit_run(folder, settings, executor, progress)


def _audit_run(
    folder: Path, settings: AuditSettings, executor: Executor | None, progress: Progress | None
) -> AuditedRun:
    doing("loading the calibrated model")
    known = Calibrated.of(folder, settings.calibration)
    dynamics, starts = _dynamics(known, settings), _starts(known, settings)
    known.shipped()  # refuses, and says what is missing
    claim = Claim(settings.error, settings.share, settings.false_halt_rate)
    tries = Tries.of(folder)
    left_out = {*AskSettings.model_fields, *(["calibration"] if settings.calibration is None else [])}
    asked = {**settings.model_dump(exclude=left_out), "model_sha256": known.sha256}
    asked["starts"] = starts.content_hashes()
    begun = tries.open(asked)
    number = begun["attempt"] if begun else tries.next
    work = folder / FOLDER / f"try-{number}"
    dynamics = Dynamics(**{**vars(dynamics), "seed": dynamics.seed + number})
    expected = _expected(known, starts, dynamics, claim, work, progress)
    if begun is None:
        tries.begin(asked, _plan(claim, number, expected, settings.labels))
    plan = _planned(tries.made[-1]["plan"])
    note(
        f"try {number}: {plan.runs.trials} runs of {dynamics.steps} steps, {plan.draws.trials} labels; certified with "
        f"at most {counted(plan.draws.allowed, 'bad frame')} and {counted(plan.runs.allowed, 'halt')}"
    )
    store, theory = LabelStore(work / "labels", settings.calculator), ""
    used = executor or make_executor(settings, settings.calculator)

    def ask(frames: Frames) -> Labelled:
        nonlocal theory
        told = None if progress is None else lambda done, total: progress("labels", done, total)
        found = ask_for(store, used, frames, progress=told)
        theory = found.theory or theory
        return found

    try:
        found = audit(
            known.model, known.shipped(), starts, claim, plan, dynamics, ask, folder=work / "runs", progress=progress
        )
    finally:
        if executor is None:
            used.close()
    tries.finish(found.finding)
    return _result(folder, known, claim, found, dynamics, len(starts), theory, expected)


def _dynamics(known: Calibrated, settings: AuditSettings) -> Dynamics:
    """That of the calibration."""
    calibration, point = known.calibration, known.calibration.state_point
    if calibration.halt is None or point.temperature_K is None:
        raise UncertaintyError(
            "the run has no threshold to halt at: there is nothing to certify",
            hint="`equimd calibrate` with a temperature, without --no-halt",
        )
    if point.ensemble != "langevin" or point.friction_per_fs is None or point.score_every != 1:
        raise UncertaintyError(
            f"the run is calibrated for {point.ensemble}, scored every {point.score_every} steps: audits are of "
            "langevin dynamics scored at every step",
            hint="calibrate for that",
        )
    seed = (settings.seed * 8 + 5) << 20
    return Dynamics(calibration.halt.run_length, point.temperature_K, point.dt_fs, point.friction_per_fs, seed)


def _starts(known: Calibrated, settings: AuditSettings) -> Frames:
    """The structures, of one molecule that the run is calibrated for."""
    from ase.formula import Formula

    if not settings.starts:
        raise ConfigError("no structures to start from", hint="--starts FILE, structures of an ordinary start of a run")
    state = {"charge": settings.charge, "spin": settings.spin}
    atoms = [unconstrained(a, name) for name in settings.starts for a in structures_of(name, **state)]
    where = ", ".join(settings.starts)
    for k, a in enumerate(atoms):
        if not np.array_equal(a.numbers, atoms[0].numbers) or a.pbc.any():
            raise DataError("is of another molecule or atom order than the first, or periodic", where=f"{where}, {k}")
    formula = str(Formula.from_list(list(atoms[0].symbols)).format("hill"))
    strange = known.calibration.unlike(formula)
    if strange is not None:
        raise UncertaintyError(strange, where=where)
    frames = Frames.from_ase(atoms, where=where)
    if len(frames.states) > 1:
        raise DataError("the structures are of different charge or multiplicity", where=where)
    check_data(known.model, ArrayDataset(frames), where=where)
    return Frames.build(frames.numbers, frames.positions, charge=frames.charge, spin=frames.spin, where=where)


def _expected(
    known: Calibrated, starts: Frames, dynamics: Dynamics, claim: Claim, work: Path, progress: Progress | None
) -> float:
    """The share of bad frames in some short runs that are not labelled, as the sigmas predict it."""
    runs = Dynamics(**{**vars(dynamics), "steps": min(dynamics.steps, SURVEY_STEPS), "seed": dynamics.seed + (1 << 19)})
    replicas = range(SURVEY_RUNS)
    told = None if progress is None else lambda done, total: progress("unlabelled runs", done, total)
    taken = guarded_runs(
        known.model,
        starts.take(start_rows(replicas, len(starts), runs.seed)),
        replicas,
        runs,
        evenly(replicas, runs.steps, SURVEY_FRAMES),
        watch=known.shipped(),
        folder=work / "survey",
        progress=told,
    )
    doing("predicting the share of bad frames")
    return known.bad_share(starts.at(taken.positions), claim.error)


def _plan(claim: Claim, number: int, expected: float, most: int) -> AuditPlan:
    """The smallest that is likely to pass, else the likeliest of so many labels.

    Raises:
        UncertaintyError: so few labels show nothing.
    """
    plan = plan_audit(claim, number, expected, 0.0, most=most) or best_plan(claim, number, expected, most=most)
    if plan is None:
        least = trials_needed(0, claim.share, confidence_of(number))
        raise UncertaintyError(
            f"{most} labels cannot show a share below {claim.share:g} at try {number}: it takes {least}",
            hint=f"--labels {least} or more, or a larger --share",
        )
    return plan


def _planned(values: dict[str, Any]) -> AuditPlan:
    return AuditPlan(values["attempt"], Trials(**values["draws"]), Trials(**values["runs"]))


def _result(
    folder: Path,
    known: Calibrated,
    claim: Claim,
    found: Audited,
    dynamics: Dynamics,
    n_starts: int,
    theory: str,
    expected: float,
) -> AuditedRun:
    finding, missing = found.finding, found.finding.missing(claim)
    labels = {"train": 0, "calibrate": 0, "audit": finding.draws, "failed": finding.failed}
    labels["total"] = sum(labels.values())
    certificate = None
    if not missing:
        words = "the given structure" if n_starts == 1 else f"one of {n_starts} given structures"
        certificate = certificate_of(known, claim, finding, dynamics, words, theory, labels)
    if certificate is not None:
        save_certificate(Run.open(folder).path, certificate)
    return AuditedRun(
        folder,
        "not_certified" if missing else "certified",
        missing,
        None if certificate is None else certificate.to_json(),
        asdict(finding),
        labels,
        expected,
        "" if certificate is None else certificate.words,
    )


def certificate_of(
    known: Calibrated,
    claim: Claim,
    finding: Finding,
    dynamics: Dynamics,
    starts: str,
    method: str,
    labels: dict[str, int],
) -> Certificate:
    """The certificate of a finding that showed the claim, at the threshold that the run halts at."""
    return Certificate(
        claim=claim,
        finding=finding,
        run_length=dynamics.steps,
        temperature_K=dynamics.temperature,
        ensemble="langevin",
        dt_fs=dynamics.dt,
        friction_per_fs=dynamics.friction,
        starts=starts,
        method=method,
        threshold={"value": known.shipped().threshold, "unit": "eV/A", "action": "halt"},
        model_sha256=known.sha256,
        data_sha256=known.calibration.data_sha256,
        labels=labels,
    )
