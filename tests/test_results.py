"""Every figure that README and docs quote stands in a results file that its benchmark wrote, and stays the same."""

from __future__ import annotations

import json
import re
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from equimd.benchmarks import headline
from equimd.benchmarks.accuracy import accuracy_tables
from equimd.benchmarks.engines import engines_suite
from equimd.benchmarks.results import Row, merge
from equimd.benchmarks.scale import ahead, scale_suite
from equimd.config import PRESETS
from tests.kills import table as faults

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
ROW_KEYS = {"name", "value", "unit", "command", "preset", "budget_s", "n_train", "seed"}
FIGURE = re.compile(r"\d+(\.\d+)?\s*(meV|kcal|ms/step|ns/day)")


def result_files() -> list[Path]:
    return sorted(RESULTS.glob("*.json"))


@pytest.mark.parametrize("path", result_files(), ids=lambda p: p.stem)
def test_results_keep_the_contract(path: Path) -> None:
    found = json.loads(path.read_text())
    assert {"suite", "created", "machine", "versions", "data_sha256", "rows"} <= set(found)
    assert found["suite"] == path.stem
    parts = {"engines": 2}.get(path.stem, 4)  # of an engine, whatever molecule it moves
    for row in found["rows"]:
        assert ROW_KEYS <= set(row), row
        assert re.fullmatch(rf"[\w-]+(/[\w-]+){{{parts}}}", row["name"]), row["name"]
        assert row["value"] == row["value"] and row["command"] and row["unit"]
    names = [row["name"] for row in found["rows"]]
    assert len(names) == len(set(names))


def test_the_accuracy_table_is_the_results_file() -> None:
    found = json.loads((RESULTS / "accuracy.json").read_text())
    assert (RESULTS / "accuracy.md").read_text() == accuracy_tables.markdown(found)


@pytest.mark.parametrize("suite", [engines_suite, scale_suite], ids=["engines", "scale"])
def test_a_table_is_its_results_file(suite: types.ModuleType, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    found = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == suite.markdown(found)


def test_the_page_on_scale_is_reckoned_from_what_was_measured(root: Path) -> None:
    found = json.loads((RESULTS / "scale.json").read_text())
    assert ahead.ahead(found) in (root / "docs" / "scale.md").read_text()


def test_readme_quotes_its_table_and_no_figure_besides(root: Path) -> None:
    readme = (root / "README.md").read_text()
    begin, end = re.search(r"<!-- results:begin.*?-->\n", readme), readme.index("<!-- results:end -->")
    assert begin is not None
    assert readme[begin.end() : end].strip() == headline.face(RESULTS)
    rest = readme[: begin.end()] + readme[end:]
    assert not FIGURE.search(rest), FIGURE.search(rest)
    assert rest.count("|") == 0  # no other table


def test_the_results_page_quotes_the_tables_and_no_figure_besides(root: Path) -> None:
    page = (root / "docs" / "results.md").read_text()
    accuracy = accuracy_tables.markdown(json.loads((RESULTS / "accuracy.json").read_text())).split("\n", 2)[2].strip()
    for table in (accuracy, headline.speed(RESULTS), headline.trust(RESULTS)):
        assert table in page, table
        page = page.replace(table, "")
    assert not FIGURE.search(page), FIGURE.search(page)


def test_every_figure_of_readmes_table_is_that_of_a_row(tmp_path: Path) -> None:
    """Eight lines, the first of the default model, none of them lacking a figure; other results make another table."""
    lines = [line.strip("| ").split(" | ") for line in headline.face(RESULTS).splitlines()[2:]]
    assert len(lines) == 8 and lines[0][1] == "`default`, 45 min"
    assert {line[1].split("`")[1] for line in lines} <= set(PRESETS)
    assert not [cell for line in lines for cell in line if cell == "-" or re.search(r"(^|[ /;])-($|[ /;])", cell)]
    rows = headline.read(RESULTS, "accuracy")
    for molecule, told in zip(headline.PAIR, re.findall(r"[\d.]+", lines[0][2]), strict=True):
        assert float(told) == round(rows[f"rmd17/{molecule}/01/conservative/forces_mae_meV_per_A"]["value"], 1)
    published = {figure for pair in accuracy_tables.RMD17["MACE"].values() for figure in pair}
    for own, beside in ((line[2], line[3]) for line in _changed(tmp_path)):
        asked = {"3", "4"} | published  # members of the ensembles; figures of papers
        assert set(re.findall(r"\d[\d.]*", f"{own} {beside}")) - asked <= {"777", "777.0", "777.00", "77700.0", "200"}


def _changed(folder: Path) -> list[list[str]]:
    """README's table from results whose every value is 777."""
    for path in result_files():
        found = json.loads(path.read_text())
        for row in found["rows"]:
            row["value"] = 777.0
            row |= {key: dict.fromkeys(row[key], 777.0) for key in ("per_seed",) if row.get(key)}
            row |= {key: [777.0, 777.0] for key in ("interval",) if row.get(key)}
        (folder / path.name).write_text(json.dumps(found))
    return [line.strip("| ").split(" | ") for line in headline.face(folder).splitlines()[2:]]


def test_the_table_of_faults_is_the_results_file(root: Path) -> None:
    found = json.loads((RESULTS / "reliability.json").read_text())
    assert faults.markdown(found) in (root / "docs" / "reference" / "reliability.md").read_text()


def test_the_docs_quote_what_presets_take_and_reach(root: Path) -> None:
    table = headline.presets(RESULTS)
    assert table in (root / "docs" / "how-to" / "train.md").read_text()
    assert [line.split("`")[1] for line in table.splitlines()[2:]] == list(PRESETS)


def test_the_headline_has_every_figure() -> None:
    speed, trust = headline.speed(RESULTS), headline.trust(RESULTS)
    cells = [line.strip("| ").split(" | ") for line in speed.splitlines()]
    assert [len(line) for line in cells] == [4] * 6
    missing = [cell for line in cells[2:] for cell in line if cell == "-" or " - " in f" {cell} "]
    assert missing == ["-", "-"]  # time to accuracy, of NequIP and MACE
    assert len(trust.splitlines()) == 2 + 9 and "| - |" not in trust
    row = next(
        r
        for r in json.loads((RESULTS / "speed.json").read_text())["rows"]
        if r["name"].endswith("1/md/ratio_vs_nequip")
    )
    assert f"{row['value']:.1f}" in cells[3][2]


def test_what_was_not_measured_is_missing_from_the_headline(tmp_path: Path) -> None:
    assert "| step of dynamics | - / - | - / - | - / - |" in headline.speed(tmp_path)
    merge(
        tmp_path / "speed.json", "speed", [Row("speed/aspirin/1/md/ratio_vs_mace", 59.5, "1", "c", "p", 1.0, 1, 0)], {}
    )
    assert "| step of dynamics | - / - | - / - | - / 59.5 |" in headline.speed(tmp_path)
    assert "sigma" not in headline.trust(tmp_path)


def test_rows_are_merged_by_name(tmp_path: Path) -> None:
    def row(name: str, value: float) -> Row:
        return Row(name, value, "meV", "command", "default", 60.0, 10, 0)

    path = tmp_path / "suite.json"
    merge(path, "suite", [row("d/m/01/v/a", 1.0), row("d/m/01/v/b", 2.0)], {"x": "1"})
    found = merge(path, "suite", [row("d/m/01/v/b", 3.0)], {"y": "2"})
    assert {r["name"]: r["value"] for r in found["rows"]} == {"d/m/01/v/a": 1.0, "d/m/01/v/b": 3.0}
    assert found["data_sha256"] == {"x": "1", "y": "2"}
    assert json.loads(path.read_text()) == found


def test_processes_that_measure_side_by_side_lose_no_row(tmp_path: Path) -> None:
    def measure(who: str) -> None:
        for k in range(20):
            merge(tmp_path / "suite.json", "suite", [Row(f"d/m/01/{who}/{k}", 1.0, "1", "c", "p", 1.0, 1, 0)], {})

    with ThreadPoolExecutor() as pool:
        list(pool.map(measure, "abc"))
    assert len(json.loads((tmp_path / "suite.json").read_text())["rows"]) == 3 * 20
