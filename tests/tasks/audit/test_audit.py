"""What an audit shows and what it does not; plans; the certificate in words and on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from ase.io import read, write

from equimd.errors import DataError, RunError
from equimd.guard.certificate import (
    CERTIFICATE_FILE,
    Certificate,
    Claim,
    Finding,
    load_certificate,
    save_certificate,
    words,
)
from equimd.run import Run
from equimd.tasks.audit import of_run
from equimd.tasks.audit.runs import draws, evenly
from equimd.tasks.audit.settings import AuditSettings
from equimd.tasks.audit.task import AuditPlan, best_plan, plan_audit, start_rows
from equimd.tasks.audit.tries import TRIES_FILE, Tries
from equimd.uq.bounds import Trials
from tests.golden.saved import SAVED

CLAIM = Claim(0.1, 0.05, 0.1)
FINDING = Finding(1, 0.975, 72, 0, 0.0499, 72, 2, 0.0968, largest=0.08)

PLAN = AuditPlan(1, Trials(72, 0, 0.05, 0.975), Trials(72, 2, 0.1, 0.975))


def certificate() -> Certificate:
    return Certificate(
        CLAIM, FINDING, 10_000, 300.0, "langevin", 0.5, 0.01, "one of 61 frames of GFN1-xTB dynamics at 300 K",
        "GFN2-xTB", {"value": 0.06, "unit": "eV/A", "action": "halt"}, "abc", {"train": "1"},
        {"train": 100, "calibrate": 59, "audit": 72, "failed": 0, "total": 231},
    )  # fmt: skip


def test_plans_of_first_and_second_try() -> None:
    first, second = (plan_audit(CLAIM, k, 0.002, 0.0, most=500) for k in (1, 2))
    assert first is not None and second is not None
    assert (first.draws.trials, first.draws.allowed) == (72, 0)
    assert (first.runs.trials, first.runs.allowed) == (72, 2)
    assert (second.draws.trials, second.draws.allowed) == (86, 0)
    assert second.runs.trials >= 86 and second.runs.passes(2)


def test_no_plan_where_too_much_is_expected_or_too_little_left() -> None:
    assert plan_audit(CLAIM, 1, 0.04, 0.0, most=500) is None
    assert plan_audit(CLAIM, 1, 0.002, 0.0, most=71) is None
    last = best_plan(CLAIM, 1, 0.02, most=150)
    assert last is not None and (last.draws.trials, last.draws.allowed) == (142, 2)
    assert best_plan(CLAIM, 1, 0.02, most=71) is None
    small = best_plan(CLAIM, 1, 1e-6, most=400)  # more runs would be likelier to show it, by nothing, and take longer
    assert small is not None and (small.draws.trials, small.draws.allowed) == (72, 0)


def test_what_is_missing() -> None:
    assert FINDING.missing(CLAIM) == []
    bad = replace(FINDING, bad=1, share_bound=0.075)
    assert "1 of 72" in bad.missing(CLAIM)[0] and len(bad.missing(CLAIM)) == 1
    halting = replace(FINDING, halts=3, halts_bound=0.117)
    assert "3 of 72 runs halted" in halting.missing(CLAIM)[0]


def test_words_say_what_was_shown() -> None:
    text = certificate().words
    for part in (
        "Certified against GFN2-xTB", "10000 steps (5 ps) at 300 K", "fewer than 5 %", "0.1 eV/A", "0 of 72",
        "below 4.99 %", "below 10 %", "2 of 72", "below 9.68 %", "try 1, 97.5 %", "one of 61 frames", "never visit",
    ):  # fmt: skip
        assert part in text, part
    failed = words({**certificate().to_json(), "draws_failed": 3})
    assert "gave no label for 3" in failed


def test_contract_keys() -> None:
    keys = {
        "error_eV_per_A", "share", "share_bound", "confidence", "try", "audited_runs", "draws_passed", "bad",
        "false_halt_rate", "halts", "halts_bound", "run_length", "temperature_K", "ensemble", "method", "threshold",
        "model_sha256", "data_sha256",
    }  # fmt: skip
    assert keys <= certificate().to_json().keys()


def test_it_is_kept_with_its_model(tmp_path: Path) -> None:
    assert load_certificate(tmp_path, "abc") is None
    save_certificate(tmp_path, certificate())
    assert load_certificate(tmp_path, "abc") == certificate().to_json()
    assert load_certificate(tmp_path, "other weights") is None
    kept = certificate().to_json()
    spoiled = [{**kept, key: [[1]]} for key in kept if key != "model_sha256"]
    spoiled.append({**kept, "threshold": {"value": "0.06", "action": "halt"}})
    spoiled += [{k: v for k, v in kept.items() if k != key} for key in ("try", "bad", "starts")]
    for text in ("{", "[]", *map(json.dumps, spoiled)):
        (tmp_path / CERTIFICATE_FILE).write_text(text)
        with pytest.raises(RunError, match="certificate"):
            load_certificate(tmp_path, "abc")


def test_tries_that_cannot_be_counted_are_said(tmp_path: Path) -> None:
    tries = Tries.of(tmp_path)
    tries.begin({"error": 0.1}, PLAN)
    tries.finish(FINDING)
    again = Tries.of(tmp_path)
    assert again.made == tries.made and again.next == 2
    (kept,) = tries.made
    for made in ("x", [1], [{**kept, "finding": 1}], [{**kept, "attempt": "1"}], [{**kept, "plan": {"draws": 3}}]):
        (tmp_path / TRIES_FILE).write_text(json.dumps({"version": 1, "tries": made}))
        with pytest.raises(RunError, match="tries cannot be read"):
            Tries.of(tmp_path)


def test_draws_are_uniform_and_known_beforehand() -> None:
    found = draws(range(4000), 100, 3)
    steps = np.array([s for (s,) in found.values()])
    assert steps.min() == 1 and steps.max() == 100 and abs(steps.mean() - 50.5) < 2
    assert draws(range(7, 9), 100, 3) == {k: found[k] for k in (7, 8)}, "of seed and number alone"
    starts = start_rows(range(2000), 5, 3)
    assert np.bincount(starts, minlength=5).min() > 300
    np.testing.assert_array_equal(start_rows(range(7, 9), 5, 3), starts[7:9])
    assert evenly([0], 100, 4) == {0: [25, 50, 75, 100]}
    assert evenly([2], 3, 12) == {2: [1, 2, 3]}


def test_starts_with_fixed_atoms_are_refused(tmp_path: Path) -> None:
    (tmp_path / "held.xyz").write_text("1\nProperties=species:S:1:pos:R:3:move_mask:L:1\nH 0 0 0 F\n")
    with pytest.raises(DataError, match="holds atoms fixed"):
        of_run._starts(cast(Any, None), AuditSettings(starts=(str(tmp_path / "held.xyz"),)))


def test_the_state_of_starts_that_state_none_is_told(tmp_path: Path) -> None:
    atoms = read(SAVED / "ion.start.xyz")
    atoms.info.clear()
    write(tmp_path / "ion.xyz", atoms)
    model, _ = Run.open(SAVED / "charged").load_model()
    known = cast(Any, SimpleNamespace(model=model, calibration=SimpleNamespace(unlike=lambda _: None)))
    frames = of_run._starts(known, AuditSettings(starts=(str(tmp_path / "ion.xyz"),), charge=1, spin=2))
    assert (frames.charge.tolist(), frames.spin.tolist()) == ([1], [2])
    write(tmp_path / "ion.xyz", read(SAVED / "ion.start.xyz"))
    with pytest.raises(DataError, match="charge 0 is told for all, and 1 is stated here"):
        of_run._starts(known, AuditSettings(starts=(str(tmp_path / "ion.xyz"),), charge=0))
