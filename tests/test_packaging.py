"""The wheel holds what it must and nothing else; the set-up script recovers; names quoted in texts exist."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from equimd.data import bundled

ROOT = Path(__file__).resolve().parent.parent


def _tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel built from the tracked files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in _tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(out),
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl"))).namelist()


def test_wheel_installs_only_the_package(wheel: list[str]) -> None:
    top = {name.split("/")[0] for name in wheel}
    assert {t for t in top if not t.endswith(".dist-info")} == {"equimd"}


def test_wheel_holds_every_module_and_the_bundled_data(wheel: list[str]) -> None:
    for name in _tracked():
        if name.startswith(("cli/", "benchmarks/")) and name.endswith(".py"):
            assert f"equimd/{name}" in wheel
        elif name.startswith("equimd/") and name.endswith((".py", ".h5", ".json", ".js", ".css", ".html", ".LICENSE")):
            assert name in wheel
    assert sum(name.endswith(".h5") for name in wheel) >= len(bundled.PARTS)


def test_bundled_names_in_texts_exist() -> None:
    """The examples in help texts, documents and the Makefile name data sets that are there."""
    found: dict[str, str] = {}
    for name in _tracked():
        if name.endswith((".py", ".md", "Makefile", ".yaml")) and not name.startswith("tests/"):
            for quoted in re.findall(r"bundled:([a-z][\w-]*)", (ROOT / name).read_text()):
                found[quoted] = name
    assert "ethanol" in found
    known = {*bundled.NAMES, *(n.removesuffix("idation") for n in bundled.NAMES)}  # -val is short for -validation
    assert {k: v for k, v in found.items() if k not in known} == {}


@pytest.fixture
def setup_script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("equimd_setup", ROOT / ".ci" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_setup_reads_requirement_names(setup_script: types.ModuleType) -> None:
    lines = ["torch>=2.13,<3", "Laplace_Torch", "numpy>=1.26; python_version > '3'", "a[b]==1", "c @ file:x"]
    assert [setup_script.distribution(r) for r in lines] == ["torch", "laplace-torch", "numpy", "a", "c"]


def test_setup_starts_afresh_after_an_interruption(
    setup_script: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = setup_script.Environment(tmp_path / "venv", tmp_path / "cache")

    def create(folder: Path, **_: object) -> None:
        env.python.parent.mkdir(parents=True)
        env.python.touch()

    monkeypatch.setattr(setup_script.venv, "create", create)
    monkeypatch.setattr(env, "pip", lambda *args, **kwargs: None)
    monkeypatch.setattr(env, "call", lambda *args, **kwargs: None)
    assert not setup_script.prepare(env, "key")
    (env.folder / "half-installed").touch()
    assert not setup_script.prepare(env, "key")  # never stamped as done
    assert not (env.folder / "half-installed").exists()
    env.write_stamp(state="done", base="key", parts=["packages"])
    assert setup_script.prepare(env, "key")
    assert not setup_script.prepare(env, "another key")


def test_setup_leaves_a_foreign_environment_alone(setup_script: types.ModuleType, tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    with pytest.raises(setup_script.SetupError, match="was not made by this set-up"):
        setup_script.prepare(setup_script.Environment(tmp_path / "venv", tmp_path / "cache"), "key")
    assert (tmp_path / "venv" / "pyvenv.cfg").exists()


def test_setup_never_asks_for_torchvision(
    setup_script: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = setup_script.Environment(tmp_path, tmp_path)
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(env, "pip", lambda *args, **kwargs: calls.append(args))
    monkeypatch.setattr(
        env, "ask", lambda code: "torchvision>=0.15\nscipy>=1.12" if "requires" in code else "2.13.0+cpu"
    )
    setup_script.install_packages(env, ["label"])
    asked = [a for call in calls for a in call]
    assert "scipy>=1.12" in asked
    assert not [a for a in asked if "torchvision" in a]
    for call in calls:  # whatever resolves dependencies is held to the torch that is there
        assert "--no-deps" in call or "--constraint" in call
    assert (tmp_path / "held.txt").read_text() == "torch==2.13.0+cpu\n"


def test_setup_keys_on_requirements_and_torch(setup_script: types.ModuleType) -> None:
    key = setup_script.recipe_key("torch==2.13.0", "cpu")
    assert key == setup_script.recipe_key("torch==2.13.0", "cpu")
    assert key != setup_script.recipe_key("torch==2.13.0", "cu130")


@pytest.mark.parametrize(
    ("asked", "extras"),
    [("", {"label"}), ("--docs", {"label", "docs"}), ("--tests", {"label", "docs", "tensorboard", "dev"})],
)
def test_setup_installs_what_is_asked_for(
    setup_script: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, extras: set[str]
) -> None:
    installed: list[str] = []
    (tmp_path / "venv").mkdir()
    monkeypatch.setattr(setup_script, "prepare", lambda env, key: False)
    monkeypatch.setattr(setup_script, "install_torch", lambda *args: None)
    monkeypatch.setattr(setup_script, "install_packages", lambda env, names: installed.extend(names))
    monkeypatch.setattr(
        sys, "argv", ["setup.py", "--venv", f"{tmp_path}/venv", "--cache", str(tmp_path), *asked.split()]
    )
    assert setup_script.main() == 0
    assert set(installed) == extras and len(installed) == len(extras)
    assert setup_script.requirements(installed)  # extras that pyproject.toml has
