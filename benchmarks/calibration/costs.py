"""One piece of the calibration suite: what the guard's scores cost, as ratios to a plain energy and force call.

Calls are interleaved frame by frame over held-out in-domain frames, so that the exact covariances that the decision
asks for now and then are counted as often as they occur. Eager is compared with eager, compiled with compiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.benchmarks import models
from equimd.benchmarks.options import Options
from equimd.data.batch import Batch
from equimd.data.system import System
from equimd.errors import UncertaintyError
from equimd.forces.forcefield import Compile, ForceField
from equimd.guard.judge import Judge
from equimd.guard.score import StepDecision, StepScore
from equimd.model.interface import Model
from equimd.run import Run
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.tasks.calibrate.task import calibrate, prepare
from equimd.uq.posterior import LastLayer, Posterior

RANK = 8
WARM_UP = 5


def measure(
    case: models.Case, run_folder: Path, options: Options, seed: int, *, frames: int = 1000, compiled: bool = True
) -> dict[str, Any]:
    """Ratios for one molecule, one structure a call.

    Args:
        frames: in-domain test frames. compiled: also compiled against compiled.
    """
    held = models.held_out(case, options, seed)
    done = calibrate(prepare(Run.open(run_folder), held.calibration, CalibrationSettings(halt=False, seed=seed)))
    model, scored = models.load_model(run_folder), done.scored
    flag = StepDecision(done.found.calibrated, scored.screen, scored.flag_level)
    decisions = {"flag": flag, "halt": replace(flag, level=scored.halt_level)}
    data = held.tests[case.split]
    block = data.frames(np.linspace(0, len(data) - 1, min(frames, len(data))).astype(np.int64))
    system, positions = System.build(block.numbers[0]), torch.from_numpy(block.positions.copy())[:, None]
    out: dict[str, Any] = {"n_atoms": system.n_atoms, "frames": len(block), "modes": {}}
    modes: list[tuple[str, Compile]] = [("eager", "off"), *([("compiled", "on")] if compiled else [])]
    for name, mode in modes:
        out["modes"][name] = _mode(model, system, decisions, positions, mode)
    out["modes"]["eager"] |= _rank(model, done.found.calibrated.layer, block, positions)
    return out


def _mode(
    model: Model, system: System, decisions: Mapping[str, StepDecision], positions: Tensor, mode: Compile
) -> dict[str, float]:
    plain = ForceField(model, system, compile=mode)
    calls: dict[str, Callable[[Tensor], object]] = {"plain": plain}
    scores = {}
    for name, decision in decisions.items():
        scores[name] = StepScore(decision, model, system)
        field = ForceField(model, system, judge=Judge(score=scores[name]), features=True, compile=mode)
        calls[name] = _decided(field, scores[name])
    seconds = interleaved(calls, positions)
    out = {f"decision_{name}": seconds[name] / seconds["plain"] for name in decisions}
    shares = {f"exact_share_{name}": s.exact_count / max(s.count, 1) for name, s in scores.items()}
    return {**out, **shares, "plain_ms": 1e3 * seconds["plain"]}


def _decided(field: ForceField, score: StepScore) -> Callable[[Tensor], object]:
    def call(x: Tensor) -> object:
        _, _, extras = field(x)
        return score(x, extras)

    return call


def _rank(model: Model, layer: LastLayer, frames: Any, positions: Tensor) -> dict[str, float]:
    """The rank-8 force score, and the exact covariance, eager, by themselves."""
    first = Batch.from_frames(frames.take([0]), model.cutoff, dtype=model.dtype)
    directions = directions_of(layer.forces, RANK)

    def batch(x: Tensor) -> Batch:
        return replace(first, positions=x[0].to(model.dtype))

    calls: dict[str, Callable[[Tensor], object]] = {
        "plain": lambda x: model.evaluate(batch(x)),
        "rank": lambda x: low_rank_scores(layer, model, batch(x), directions),
        "exact": lambda x: layer.raw(model, batch(x)),
    }
    seconds = interleaved(calls, positions[: max(20, len(positions) // 10)])
    return {f"rank_{RANK}": seconds["rank"] / seconds["plain"], "exact": seconds["exact"] / seconds["plain"]}


def interleaved(calls: Mapping[str, Callable[[Tensor], object]], positions: Tensor) -> dict[str, float]:
    """Mean seconds of each call over the frames (N, 1, n, 3), one after the other on each."""
    total = dict.fromkeys(calls, 0.0)
    for k in range(-WARM_UP, len(positions)):
        for name, call in calls.items():
            x = positions[k % len(positions)]
            began = time.perf_counter()
            call(x)
            if k >= 0:
                total[name] += time.perf_counter() - began
    return {name: seconds / len(positions) for name, seconds in total.items()}


def directions_of(posterior: Posterior, rank: int, method: str = "eigen", seed: int = 0) -> Tensor:
    """(p, rank) directions d_k of the weights.

    Args:
        method: ``eigen``, the leading eigenvectors of Sigma scaled by their standard deviations: they see the
            directions that training determined least, where unfamiliar frames differ, but only a part of the
            variance. ``sample``, random draws over sqrt(rank): the whole variance on average, each with a relative
            error of about sqrt(2 / (3 rank)) an atom. Either needs a calibration of its own.

    Raises:
        UncertaintyError: a rank outside 1..p, or no such method.
    """
    p = len(posterior.scale)
    if not 1 <= rank <= p:
        raise UncertaintyError(f"rank {rank}: the last layer has {p} weights")
    if method == "sample":
        noise = torch.randn(p, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return posterior.scale @ noise.to(posterior.scale.device) / rank**0.5
    if method != "eigen":
        raise UncertaintyError(f"no method '{method}'", hint="eigen or sample")
    left, values, _ = torch.linalg.svd(posterior.scale)
    return left[:, :rank] * values[:rank]


def explained(posterior: Posterior, directions: Tensor) -> float:
    """The share of the in-domain variance that some directions carry, 0..1."""
    root = posterior.scale.T @ posterior.second_moment @ posterior.scale
    return float((directions.T @ posterior.second_moment @ directions).trace() / root.trace())


def low_rank_scores(layer: LastLayer, model: Model, batch: Batch, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Before calibration: energy sigma (B,) eV, feature distance (B,), and the force score (N,) eV/Angstrom, the
    square root of the trace of the rank-k force covariance."""
    features, rows = model.rows(batch, directions=directions, chunk=directions.shape[1])
    force_std = rows.double().square().sum((1, 2)).sqrt()
    return layer.energy.variance(features).sqrt(), layer.distance(features, batch.n_atoms), force_std
