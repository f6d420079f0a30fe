"""The page of a training run: its sections, what it says of what is missing, that it is safe and loads nothing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import equimd
from equimd.cli.main import app
from equimd.errors import ConfigError, DataError, RunError
from equimd.tasks.report import layers, page
from tests.tasks.report.reading import PageReader

SECTIONS = [
    "The run", "Test errors", "Learning curves", "Parity on test frames", "Sigma against error", "Thresholds",
    "Certificate",
]  # fmt: skip


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, words)])


@pytest.fixture(scope="module")
def written(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "run.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(kept)
        equimd.report("conservative", out=path)
    return path


def test_sections_and_data(written: Path, kept: Path) -> None:
    found = PageReader(written)
    assert [h for h in found.headings if h in SECTIONS] == SECTIONS
    assert found.words.count("Left out") == 1 and "equimd audit conservative" in found.words  # of the certificate alone
    assert written.stat().st_size < 1_000_000
    test = json.loads((kept / "conservative" / "test.json").read_text())
    assert f"{test['forces_mae_meV_per_A']:.4g}" in found.words
    for symbol in ("H", "O"):
        drawn = found.layers(f"Forces on {symbol}")[0]
        mae = 1e3 * np.mean(np.abs(np.subtract(drawn["x"], drawn["y"])))
        assert mae == pytest.approx(test["per_element"][symbol]["forces_mae_meV_per_A"], rel=1e-3)
    assert set(found.data) <= found.ids


def test_nothing_is_loaded_and_only_its_own_scripts_run(written: Path) -> None:
    found, content = PageReader(written), written.read_text(encoding="utf-8")
    assert all(where == "data:," for where in found.loads)
    assert not re.search(r"@import|url\((?!data:)", "".join(re.findall(r"<style>(.*?)</style>", content, re.S)))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)[1]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    scripts = re.findall(r"<script>(.*?)</script>", content, re.S)
    assert len(scripts) == len(page.SCRIPTS) and all(f"'sha256-{page._hash(s)}'" in policy for s in scripts)


def test_text_of_files_is_escaped(kept: Path, tmp_path: Path) -> None:
    hostile = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
    shutil.copytree(kept / "energy-only", tmp_path / "run")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    info["status"] = info["data"]["units"] = hostile
    info["versions"] = {hostile: hostile}
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    out = tmp_path / "page.html"
    equimd.report(tmp_path / "run", out=out, test_frames=0)
    content = out.read_text(encoding="utf-8")
    assert "<script>alert" not in content and "<img" not in content and "&lt;script&gt;alert" in content
    assert page.embedded({"x": "</script><!--\u2028"}) == '{"x":"\\u003c/script>\\u003c!--\\u2028"}'


def test_what_is_missing_says_why(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept / "energy-only", tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").write_text("epoch,lr\n1,2\n2,word\n")
    (tmp_path / "run" / "test.json").write_text("[]")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("mixed.xyz", "gone.xyz"))
    told = equimd.report(tmp_path / "run", out=tmp_path / "page.html")
    assert {line.split(":")[0] for line in told.left_out} == {
        "Test errors", "Learning curves", "Parity on test frames", "Uncertainty", "Certificate",
    }  # fmt: skip
    assert any("gone.xyz" in line for line in told.left_out)
    assert PageReader(tmp_path / "page.html").words.count("Left out") == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["water.xyz"], "water.xyz: is a file, not a folder"),
        (["."], "is no folder that has a report"),
        (["conservative", "--out", "water.xyz"], "the output file exists"),
        (["conservative", "--out", "direct"], "is a folder, not a file"),
        (["broken"], "broken/run.json: cannot be read"),
        (["conservative", "--frames", "1"], "frames"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_refused_with_what_where_and_what_to_try(words: list[str], said: str, kept: Path) -> None:
    (kept / "broken").mkdir(exist_ok=True)
    (kept / "broken" / "run.json").write_text('{"version": ')
    told = call(*words)
    assert told.exit_code == 2 and said in told.stderr and "Traceback" not in told.stderr
    assert not (kept / "report.html").exists()


def test_the_command_and_the_function(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    told = call("conservative", "direct", "--out", out, "--test-frames", 0, "--json")
    assert told.exit_code == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["bytes"] == out.stat().st_size
    assert found["folders"] == [{"path": p, "kind": "run"} for p in ("conservative", "direct")]
    assert "the output file exists" in call("direct", "--out", out).stderr
    assert call("direct", "--out", out, "--overwrite", "--test-frames", 0).stdout.split(":")[0] == str(out)
    with pytest.raises(ConfigError, match="no folder"):
        equimd.report(out=tmp_path / "none.html")
    with pytest.raises(ConfigError, match="not a folder: int"):
        equimd.report(3, out=tmp_path / "none.html")
    with pytest.raises(DataError, match="exists"):
        equimd.report("direct", out=out)
    with pytest.raises(RunError, match="no such folder"):
        equimd.report("nowhere", out=tmp_path / "none.html")


def test_many_points_are_a_density_that_counts_all_of_them() -> None:
    x = np.linspace(-1, 1, 5000)
    drawn = layers.scatter(x, x**3, "blue")
    assert drawn["kind"] == "density" and sum(drawn["counts"]) == 5000
    row, column = divmod(drawn["cells"][0], drawn["n"])
    assert drawn["low"] + row * drawn["step"] == pytest.approx(-1) and column == 0
    assert layers.scatter(x[:10], x[:10], "blue")["kind"] == "points"


def test_what_is_not_ours_is_what_its_packages_hold() -> None:
    lines = [line.split() for line in page.asset("VENDORED.txt").splitlines() if not line.startswith("#")]
    assert [line[0] for line in lines] == ["3Dmol-min.js", "uPlot.iife.min.js", "uPlot.min.css"]
    for name, package, licence, digest in lines:
        assert hashlib.sha256(page.asset(name).encode()).hexdigest() == digest, name
        assert "@" in package and licence in ("MIT", "BSD-3-Clause")
    assert "University of Pittsburgh" in page.asset("3Dmol.LICENSE") and "Leon Sorokin" in page.asset("uPlot.LICENSE")
