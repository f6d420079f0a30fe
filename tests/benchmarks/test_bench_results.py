"""The results file: rows by name, each with the machine it was measured on."""

from __future__ import annotations

from pathlib import Path

import pytest

from equimd.benchmarks import results
from equimd.benchmarks.results import Row, made_by, merge


def row(name: str, value: float) -> Row:
    return Row(name, value, "ms", "equimd bench speed", "untrained", None, None, None)


def test_rows_keep_the_machine_they_were_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, here = tmp_path / "speed.json", {"cores": 2, "memory_GiB": 24, "accelerator": "none"}

    def measured(processor: str, *rows: Row) -> dict[str, dict[str, object]]:
        monkeypatch.setattr(results, "machine", lambda: {"processor": processor, **here})
        return {r["name"]: r for r in merge(path, "speed", rows, {})["rows"]}

    measured("old", row("speed/water/540/large/cpu_ms", 1.0), row("speed/ethanol/1/md/cpu_ms", 1.0))
    found = measured("new", row("speed/ethanol/1/md/cpu_ms", 2.0))
    assert found["speed/ethanol/1/md/cpu_ms"]["value"] == 2.0 and "machine" not in found["speed/ethanol/1/md/cpu_ms"]
    assert found["speed/water/540/large/cpu_ms"]["machine"] == {"processor": "old", **here}
    text = made_by(merge(path, "speed", [], {}), "equimd bench speed")
    assert text.startswith("Made by `equimd bench speed` on 2") and ", new, 2 cores; torch " in text
    assert "speed/water: on 2" in text and text.count(", old, 2 cores; torch ") == 1
    assert "machine" not in measured("newer", row("speed/water/540/large/cpu_ms", 3.0))["speed/water/540/large/cpu_ms"]


def test_rows_of_another_day_are_named_as_briefly_as_can_be(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    names = ["a/b/1/md/x", "a/b/1/md/y", "a/b/1/train/x", "a/c/1/md/x", "a/c/2/md/x"]
    found = merge(path, "speed", [row(name, 1.0) for name in names], {})
    for each in found["rows"]:
        if each["name"] in ("a/b/1/md/y", "a/b/1/train/x", "a/c/1/md/x", "a/c/2/md/x"):
            each["created"] = "2020-01-01T00:00:00+00:00"
    text = made_by(found, "equimd bench speed")
    assert text.split(". ")[1].startswith("a/b/1/md/y, a/b/1/train, a/c: on 2020-01-01, ")


def test_where_few_rows_are_new_the_sentence_starts_from_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    new = ["a/b/1/md/x", "a/c/1/md/x"]
    old = [f"a/{molecule}/1/md/{metric}" for molecule in "bcd" for metric in "yz"]
    found = merge(path, "speed", [row(name, 1.0) for name in new + old], {})
    for each in found["rows"]:
        if each["name"] in old:
            each["created"] = "2020-01-01T00:00:00+00:00"
    text = made_by(found, "equimd bench speed")
    assert text.startswith("Made by `equimd bench speed` on 2020-01-01, ")
    today = found["created"][:10]
    assert text.split(". ")[1].startswith(f"a/b/1/md/x, a/c/1/md/x: on {today}, ") and text.count(": on ") == 1


def test_a_figure_measured_again_changes_one_line(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    merge(path, "speed", [row("a", 1.0), row("b", 1.0)], {})
    before = path.read_text().splitlines()
    merge(path, "speed", [row("b", 2.0)], {})
    changed = [
        line for line in path.read_text().splitlines() if line not in before and "created" not in line.split(":")[0]
    ]
    assert len(changed) == 1 and '"name": "b", "value": 2.0' in changed[0]
