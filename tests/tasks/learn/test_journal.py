"""Decisions stand once they are written, results are kept, and a journal read again says the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from equimd.errors import RunError
from equimd.tasks.learn.journal import JOURNAL_FILE, PLAN_FILE, Journal


def test_first_decision_stands(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.decide("train-0", lambda: {"epochs": 7}) == {"epochs": 7}
    assert Journal(tmp_path).decide("train-0", lambda: {"epochs": 9}) == {"epochs": 7}
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / PLAN_FILE, other)
    assert Journal(other).decide("train-0", lambda: {"epochs": 1}) == {"epochs": 7}, "a plan can be handed on"


def test_decision_is_on_disk_before_it_takes_effect(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def work() -> dict[str, int]:
        assert '"epochs": 3' in (tmp_path / PLAN_FILE).read_text()
        raise KeyboardInterrupt

    journal.decide("train-0", lambda: {"epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        journal.once("train-0", work)
    assert Journal(tmp_path).result("train-0") is None


def test_finished_stages_are_not_done_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.once("seed", lambda: {"labels": [1, 2]}) == {"labels": [1, 2]}
    again = Journal(tmp_path)
    assert again.once("seed", lambda: {"labels": []}) == {"labels": [1, 2]}
    assert list(again.results) == ["seed"]


def test_time_adds_up_over_sessions(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.noted_seconds = 100.0
    journal.note_time()
    assert 100 <= Journal(tmp_path).noted_seconds <= Journal(tmp_path).seconds < 110


def test_damaged_notes_are_said(tmp_path: Path) -> None:
    for text, what in (
        ("{", "cannot be read"),
        ('{"version": 99, "stages": {}}', "version 99"),
        ('{"version": 1, "stages": {"seed": 3}}', "cannot be read"),
        ('{"version": 1, "stages": {}, "seconds": null}', "cannot be read"),
        ('{"version": 1, "stages": {"seed": {"labelled": 1, "failed": 0, "use": "x"}}}', "cannot be read"),
    ):
        (tmp_path / JOURNAL_FILE).write_text(text)
        with pytest.raises(RunError, match=what):
            Journal(tmp_path)
