"""An audit: fresh runs of a calibrated model, one frame of each drawn beforehand, and their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.errors import UncertaintyError
from equimd.guard.certificate import Claim, Finding
from equimd.guard.score import Rule
from equimd.labels.ledger import Labelled
from equimd.model.interface import Model
from equimd.tasks.audit.runs import Dynamics, Taken, draws, guarded_runs
from equimd.uq.bounds import PASSES, Trials, chance_to_pass, confidence_of, smallest_plan, trials_needed, upper_bound

HALTS_EXPECTED = 0.2  # of the false-halt rate: what a model that is audited should halt at
MORE_RUNS = 2  # times the planned ones, at most, to replace draws behind halts

Progress = Callable[[str, int, int], None]
Ask = Callable[[Frames], Labelled]


@dataclass(frozen=True)
class AuditPlan:
    """An audit decided beforehand.

    Attributes:
        draws: labelled frames, and how many of them may be bad. runs: how many of them may halt.
    """

    attempt: int
    draws: Trials
    runs: Trials


def plan_audit(
    claim: Claim, attempt: int, expected_share: float, expected_halts: float, *, most: int
) -> AuditPlan | None:
    """The smallest audit that shows the claim with a probability of 0.8 at the rates that are expected; None if there
    is none of at most so many labels."""
    confidence = confidence_of(attempt)
    shares = smallest_plan(claim.share, expected_share, confidence, most=most)
    if shares is None:
        return None
    expected_halts = max(expected_halts, HALTS_EXPECTED * claim.false_halt_rate)
    halts = smallest_plan(claim.false_halt_rate, expected_halts, confidence, at_least=shares.trials)
    return None if halts is None else AuditPlan(attempt, shares, halts)


def best_plan(claim: Claim, attempt: int, expected_share: float, *, most: int) -> AuditPlan | None:
    """The smallest audit of at most so many labels that shows the claim with a probability of 0.8, else the likeliest
    to show it, however unlikely; None if they are too few even without a bad frame."""
    confidence, found = confidence_of(attempt), list[tuple[float, Trials]]()
    allowed = 0
    while (trials := trials_needed(allowed, claim.share, confidence)) <= most and allowed < 20:
        plan = Trials(trials, allowed, claim.share, confidence)
        found.append((chance_to_pass(trials, allowed, expected_share), plan))
        allowed += 1
    if not found:
        return None
    shares = max(found, key=lambda pair: (min(pair[0], PASSES), -pair[1].trials))[1]
    expected = HALTS_EXPECTED * claim.false_halt_rate
    halts = smallest_plan(claim.false_halt_rate, expected, confidence, at_least=shares.trials)
    return None if halts is None else AuditPlan(attempt, shares, halts)


def start_rows(replicas: range, count: int, seed: int) -> np.ndarray:
    """Which of ``count`` starts each run takes: drawn with replacement, by seed and number of the run alone, so that
    runs are independent draws."""
    return np.array([np.random.default_rng([seed, r, 1]).integers(count) for r in replicas], np.int64)


@dataclass(frozen=True)
class Audited:
    """What an audit made.

    Attributes:
        labelled: the drawn frames with their labels. errors: (K,) of the first ``draws``, largest on an atom, eV/A.
        halted: positions (H, n, 3) of the refused frames of the score.
    """

    finding: Finding
    labelled: Frames
    errors: np.ndarray
    halted: np.ndarray
    seconds: float


def audit(
    model: Model,
    watch: Rule,
    starts: Frames,
    claim: Claim,
    plan: AuditPlan,
    dynamics: Dynamics,
    ask: Ask,
    *,
    folder: Path,
    progress: Progress | None = None,
    checked: Callable[[], None] | None = None,
) -> Audited:
    """Make the planned runs, and further ones until enough frames passed; label these; say what was found.

    Args:
        starts: what runs start from, each from one of them drawn at random.
        ask: labels frames.
        folder: where finished runs are kept.

    Raises:
        UncertaintyError: so many runs halted, or labels failed, that there are too few frames.
    """
    wanted = plan.draws.trials
    number = plan.runs.trials
    batches, passed = list[Taken](), list[np.ndarray]()
    labelled, tried = list[Labelled](), 0
    made = 0
    while sum(len(each.rows) for each in labelled) < wanted:
        target = number if not made else min(made + max(wanted // 4, 1), (1 + MORE_RUNS) * number)
        if tried == len(passed) and made == target:
            known = sum(len(each.rows) for each in labelled)
            what = f"of {made} runs, {len(passed)} had not halted at the step drawn, and {known} of these have labels"
            raise UncertaintyError(f"{what}: the audit takes {wanted}", hint="a better model")
        if tried == len(passed):
            batches.append(_runs(model, watch, starts, dynamics, range(made, target), folder, progress, checked))
            passed += list(batches[-1].positions)
            made = target
            continue
        lacking = wanted - sum(len(each.rows) for each in labelled)
        chosen = np.array(passed[tried : tried + lacking])
        tried += len(chosen)
        labelled.append(ask(starts.at(chosen)))
    return _found(model, claim, plan, labelled, batches, made)


def _runs(
    model: Model,
    watch: Rule,
    starts: Frames,
    dynamics: Dynamics,
    replicas: range,
    folder: Path,
    progress: Progress | None,
    checked: Callable[[], None] | None,
) -> Taken:
    own = starts.take(start_rows(replicas, len(starts), dynamics.seed))
    told = None if progress is None else lambda done, total: progress("audited runs", done, total)
    wanted = draws(replicas, dynamics.steps, dynamics.seed)
    return guarded_runs(
        model, own, replicas, dynamics, wanted, watch=watch, folder=folder, progress=told, checked=checked
    )


def _found(
    model: Model, claim: Claim, plan: AuditPlan, labelled: list[Labelled], batches: list[Taken], made: int
) -> Audited:
    frames = Frames.concatenate([each.frames for each in labelled])
    errors = largest_errors(model, frames)
    runs = Taken.joined(batches)
    first = int((runs.halted_replica < plan.runs.trials).sum())
    bad = int((errors > claim.error).sum())
    finding = Finding(
        attempt=plan.attempt,
        confidence=plan.draws.confidence,
        draws=len(errors),
        bad=bad,
        share_bound=upper_bound(bad, len(errors), plan.draws.confidence),
        runs=plan.runs.trials,
        halts=first,
        halts_bound=upper_bound(first, plan.runs.trials, plan.runs.confidence),
        further_runs=made - plan.runs.trials,
        further_halts=len(runs.halted_replica) - first,
        failed=sum(len(each.failed) for each in labelled),
        largest=float(errors.max()),
    )
    scored = [k for k, r in enumerate(runs.halted_replica) if int(r) not in runs.broken]
    return Audited(finding, frames, errors, runs.halted_positions[scored], runs.seconds)


def largest_errors(model: Model, frames: Frames, *, batch_size: int = 16) -> np.ndarray:
    """(K,) the largest force error on an atom of each labelled frame, eV/Angstrom."""
    found = []
    for first in range(0, len(frames), batch_size):
        part = frames.take(np.arange(first, min(first + batch_size, len(frames))))
        batch = Batch.from_frames(part, model.cutoff, dtype=model.dtype)
        forces = model.evaluate(batch)["forces"].to(torch.float64).cpu().numpy().reshape(len(part), -1, 3)
        found.append(np.linalg.norm(forces[:, : part.positions.shape[1]] - part.forces, axis=-1).max(1))
    return np.concatenate(found)
