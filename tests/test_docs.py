"""Every Python example of README and docs runs, and the tutorial: on a model of seconds, otherwise as printed."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import equimd
from equimd.data import bundled
from equimd.data.convert import write_frames
from tests.training.toy import SMALL

ROOT = Path(__file__).resolve().parent.parent
#: docs/extending.md has tests of its own: what it adds to tables would stay there.
FILES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "extending.md")]
EXAMPLES = {p: re.findall(r"^```python\n(.*?)^```", p.read_text(), re.DOTALL | re.MULTILINE) for p in FILES}
TINY = {**SMALL, "num_epochs": 2, "batch_size_train": 20, "num_readout": 4}
SHORT = {"false_alarm_rate": 0.05, "run_length": 10, "blocks": 9}
#: What takes minutes, and what is done instead.
SHORTER = {
    'preset="small", max_time="5m"': ", ".join(f"{key}={value!r}" for key, value in TINY.items()),
    'calibrate(trained, "bundled:ethanol"': 'calibrate(trained, "bundled:ethanol", **SHORT',
    'time="5ps"': 'time="10fs"',
    "run(100_000)": "run(20)",
    "run(200_000)": "run(20)",
    "jobs=2": "jobs=1",
    "frames=100, trajectories=10": "frames=4, trajectories=2, interval=2, equilibration=4",
    '"bundled:ethanol-600K", "labelled.h5"': '"ethanol.xyz", "labelled.h5"',
}


@pytest.fixture(scope="module", autouse=True)
def _few_frames(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every tenth of the bundled frames."""
    folder = tmp_path_factory.mktemp("bundled")
    for path in bundled._FOLDER.glob("*.h5"):
        data = equimd.data.StoreDataset(path)
        write_frames(
            folder / path.name, equimd.data.Subset(data, range(0, len(data), 10)), extra={"temperature": 300.0}
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "_FOLDER", folder)
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
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", equimd.errors.EquimdWarning)
            exec(compile(block, f"{path.name}, example {number}", "exec"), names)


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
