"""Tables that users may add to: names, and extensions that are imported only where they are needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from equimd import registry
from equimd.errors import ConfigError
from equimd.md.ensembles import ENSEMBLES, Ensemble
from equimd.registry import Registry
from tests.extended import extended

TOY = """
from equimd.md.ensembles import ENSEMBLES, Ensemble
ENSEMBLES.add("toy", Ensemble("equimd.md.integrators:VelocityVerlet", "total energy"))
"""
BROKEN = {
    "syntax": ("ENSEMBLES = (", "line 1"),
    "import": ("# ENSEMBLES\nimport no_such_package", "line 2: cannot be imported: ModuleNotFoundError"),
    "exit": ("# ENSEMBLES\nraise SystemExit(3)", "SystemExit: 3"),
    "name": (TOY.replace('"toy"', '"nve"'), "the ensemble 'nve' is there already"),
}


@pytest.fixture
def table() -> Registry[object]:
    return Registry("colour", "COLOURS", {"red": 1, "dark-red": "equimd.units:KB"})


def test_entries_are_imported_when_they_are_asked_for(table: Registry[object]) -> None:
    from equimd.units import KB

    assert list(table) == ["red", "dark-red"] and len(table) == 2
    assert table["red"] == 1 and table["dark-red"] == KB


def test_names_are_checked_and_taken_once(table: Registry[object]) -> None:
    table.add("light_blue-2", 3)
    assert table["light_blue-2"] == 3
    with pytest.raises(ConfigError, match="'red' is there already"):
        table.add("red", 3)
    for name in ("Red", "2red", "re d", "red-", "-red", "re--d", ""):
        with pytest.raises(ConfigError, match="cannot be called so"):
            table.add(name, 3)
    table.remove("red")
    assert "red" not in table


def test_a_class_is_registered_by_its_decorator(table: Registry[object]) -> None:
    @table.register("blue")
    class Blue:
        pass

    assert table["blue"] is Blue


def test_unknown_names_are_told_the_nearest_and_all(table: Registry[object]) -> None:
    with pytest.raises(ConfigError, match=r"no colour 'rde'\n  try: did you mean 'red'\? There are red, dark-red"):
        table["rde"]
    with pytest.raises(ValueError, match="Input should be 'red' or 'dark-red'; did you mean 'red'"):
        table.check("rde")
    assert table.check("red") == "red"


def test_an_extension_is_imported_only_for_the_tables_it_mentions(tmp_path: Path, table: Registry[object]) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    with extended(tmp_path / "toy.py") as added:
        assert "red" in table and list(table) == ["red", "dark-red"] and not added
        assert ENSEMBLES["nve"] and not added  # the package's own needs none
        assert isinstance(ENSEMBLES["toy"], Ensemble) and added == ["toy"]
        assert list(ENSEMBLES)[-1] == "toy"
    assert "toy" not in ENSEMBLES


def test_an_extension_may_be_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_ensemble.py").write_text(TOY)
    with extended("toy_ensemble"):
        assert ENSEMBLES.check("toy") == "toy"


def test_an_installed_extension_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the metadata that pip writes for a package with an entry point."""
    about = tmp_path / "toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[equimd.extensions]\ntoy = toy_package\n")
    (tmp_path / "toy_package").mkdir()
    (tmp_path / "toy_package" / "__init__.py").write_text("from toy_package import inside\n")
    (tmp_path / "toy_package" / "inside.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    registry._installed.cache_clear()
    with extended():
        assert "toy" in ENSEMBLES
    monkeypatch.undo()
    registry._installed.cache_clear()


@pytest.mark.parametrize("kind", list(BROKEN))
def test_a_broken_extension_is_named(kind: str, tmp_path: Path) -> None:
    text, said = BROKEN[kind]
    path = tmp_path / "broken.py"
    path.write_text(text)
    with extended(path):
        for _ in range(2):
            with pytest.raises(ConfigError, match="cannot be imported") as told:
                ENSEMBLES["toy"]
            assert str(told.value).startswith(f"extension {path}") and said in str(told.value)
            assert "take it out of EQUIMD_EXTENSIONS" in str(told.value)


def test_an_extension_that_is_not_there_is_named(tmp_path: Path) -> None:
    for missing in ("no_such_module", tmp_path / "missing.py"):
        with extended(missing), pytest.raises(ConfigError, match=rf"extension {missing}: cannot be imported"):
            list(ENSEMBLES)
