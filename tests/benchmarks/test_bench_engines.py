"""The engines suite: every engine that is here, with a toy, and the table from its results file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from equimd.benchmarks import models
from equimd.benchmarks.engines import engines_suite
from equimd.benchmarks.engines.programs import ENGINES
from equimd.benchmarks.options import Options
from equimd.benchmarks.results import merge
from tests.benchmarks.conftest import Toy

SIZE = engines_suite.EnginesSize(rounds=2, steps=3, frames=2, compile="off")


def test_every_engine_agrees_and_is_stopped(toy: Toy, tmp_path: Path) -> None:
    found = engines_suite.measure(toy.run, toy.held_out, tmp_path / "work", SIZE)
    assert set(found) == {k for k, e in ENGINES.items() if importlib.util.find_spec(e.package)} >= {"ase"}
    for name, metrics in found.items():
        assert metrics["guard_stops"] == 1.0, name
        assert metrics["force_difference_eV_per_A"] < 1e-4 and 1 <= metrics["glue_lines"] <= 6, name
    options = Options((), budget_s=300.0, out=tmp_path)
    rows = list(engines_suite.rows(found, models.case(models.BUNDLED), options))
    assert len(rows) == 4 * len(found) and {r.name.split("/")[0] for r in rows} == {"engines"}
    text = engines_suite.markdown(merge(tmp_path / "engines.json", "engines", rows, {"frames": "0"}))
    assert "| ase | 2 |" in text and text.count("| yes |") == len(found)


def test_a_halt_elsewhere_or_without_a_reason_is_none() -> None:
    reason = "step 7: force sigma 1.2 above 0.9 eV/A"
    assert engines_suite._same((7, reason), (8, ""))
    assert not engines_suite._same((5, reason), (8, ""))
    assert not engines_suite._same((7, "stopped"), (7, "")) and not engines_suite._same(None, (7, ""))


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_the_glue_is_what_the_page_shows(name: str, root: Path) -> None:
    page = (root / "docs" / "how-to" / "engines.md").read_text()
    same = {"state, update = begin(model)", "done = run_guarded(model, state, update, steps)", "forces.run(steps)"}
    shown = [line for line in ENGINES[name].glue.splitlines() if line not in same]
    if name == "ase":  # shown apart: the guard in the first example, compiled below it
        shown = ["import equimd"]
    assert shown and [line for line in shown if line.strip() not in page] == []
