"""Large systems of the speed suite: the box, rows and exponents, table and plot, and a real worker on a small box."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from equimd.benchmarks.options import Options
from equimd.benchmarks.results import merge
from equimd.benchmarks.speed import large, peer_workers, speed_suite, speed_tables


@pytest.fixture
def box() -> ModuleType:
    """The script beside the workers, which is imported from their folder."""
    spec = importlib.util.spec_from_file_location("water", peer_workers.FOLDER / "water.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("atoms", [20, 500, 2000])
def test_water_has_the_density_of_the_liquid_and_no_molecules_in_one_another(box: ModuleType, atoms: int) -> None:
    import vesin

    numbers, positions, cell = box.water(atoms)
    assert atoms <= len(numbers) < 2.5 * atoms and len(numbers) == len(positions)
    grams = 18.015 / 6.02214e23 * len(numbers) / 3
    assert grams / (np.linalg.det(cell) * 1e-24) == pytest.approx(1.0, abs=0.01)
    finder = vesin.NeighborList(cutoff=1.7, full_list=False)
    i, j, d = finder.compute(points=positions, box=cell, periodic=True, quantities="ijd")
    within = i // 3 == j // 3
    assert within.sum() == len(numbers)  # two bonds and H-H of each molecule
    bonds = d[within & ((numbers[i] == 8) | (numbers[j] == 8))]
    np.testing.assert_allclose(bonds, box.BOND, rtol=1e-12)
    assert d[~within].min(initial=9.0) > 0.7
    assert not np.allclose(positions, box.water(atoms, seed=1)[1])


def one(atoms: int, exponent: float) -> dict[str, Any]:
    time = 2.0 * atoms**exponent
    times = {"cpu_ms": time, "wall_ms": 1.5 * time, "list_cpu_ms": 0.1 * atoms, "list_wall_ms": 0.2 * atoms}
    return {**times, "peak_MiB": 300 + 0.1 * atoms, "added_MiB": 0.1 * atoms, "atoms": atoms, "model": f"{atoms} atoms"}


def test_exponents_are_slopes_of_the_logarithms() -> None:
    found = [one(n, 1.25) for n in (540, 1029, 2187)]
    rows = {r.name: r for r in large.rows(found, 1)}
    assert rows["speed/water/all/large/exponent_cpu_time"].value == pytest.approx(1.25)
    assert rows["speed/water/all/large/exponent_list"].value == pytest.approx(1.0)
    assert rows["speed/water/all/large/exponent_memory"].value == pytest.approx(1.0)
    assert rows["speed/water/540/large/list_share"].value == pytest.approx(54 / (2.0 * 540**1.25))
    assert rows["speed/water/540/large/peak_MiB"].unit == "MiB" and rows["speed/water/540/large/wall_ms"].unit == "ms"
    assert all(re.fullmatch(r"[\w-]+(/[\w-]+){4}", name) for name in rows)
    assert not [name for name in (r.name for r in large.rows(found[:1], 1)) if "exponent" in name]


def test_table_and_plot_stand_beside_the_other_rows(tmp_path: Path) -> None:
    rows = large.rows([one(n, 1.0) for n in (10125, 1029)], 1) + large.rows([one(n, 1.0) for n in (540, 1029)], 2)
    results = merge(tmp_path / "speed.json", "speed", rows, {})
    speed_tables.write(results, tmp_path)
    table = (tmp_path / "speed.md").read_text()
    lines = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    assert [line.split()[1] for line in lines] == ["1029", "10125", "540", "1029"]  # by number, one thread first
    assert "| 1029 | 2.06 | 3.09 | 2.00 | 5.0% | 403 | 103 |" in table
    assert "Exponents in the number of atoms: CPU time 1.00, neighbour list 1.00, memory 1.00." in table
    assert "2 threads:" in table and "potential" not in table
    assert (tmp_path / "speed-large.png").stat().st_size > 5000
    assert not (tmp_path / "speed.png").exists()
    assert not large.plot({"rows": []}, tmp_path / "none.png")


def test_the_part_needs_no_data_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def measure(atoms: int, threads: int, options: Options, seconds: float) -> dict[str, Any]:
        if atoms == 1000 and made == [500]:
            made.append(0)
            raise KeyboardInterrupt
        made.append(atoms)
        return one(atoms, 1.0)

    monkeypatch.setattr(large, "measure", measure)
    monkeypatch.setattr(large, "QUICK_SIZES", (500, 1000))
    options = Options((tmp_path,), out=tmp_path / "out", work=tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        speed_suite.run(options, quick=True, parts=("large",))
    table = speed_suite.run(options, quick=True, parts=("large",))
    assert made == [500, 0, 1000]
    assert "| 1000 | 2 | 3 |" in table.read_text()
    assert json.loads((options.out / "speed.json").read_text())["data_sha256"] == {}


def test_a_real_size_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "SMALL", 24)
    found = large.measure(40, 1, Options((tmp_path,), work=tmp_path), 0.0)
    assert found["atoms"] == 54 and "54 atoms of water" in found["model"]
    assert 0 < found["list_cpu_ms"] < found["cpu_ms"]
    assert 0 <= found["added_MiB"] < found["peak_MiB"]
    assert "water" not in sys.modules  # the worker's own business
