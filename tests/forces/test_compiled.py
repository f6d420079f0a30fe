"""The compiled force function against the eager one, and its cache.

Compiling takes tens of seconds of a processor, so one artefact serves all tests that need one.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from equimd.data.system import System
from equimd.forces import compiled, forcefield, native
from equimd.forces.force_graph import evaluate_once, force_function, graph_inputs, trace
from equimd.forces.forcefield import ForceField, compiled_block_size
from equimd.forces.shared_graph import SharedGraph
from equimd.guard.judge import physical_decision
from equimd.guard.score import StepDecision
from equimd.model.painn import pairs

from .compiled import LIMITS, SYSTEM, decision, field
from .test_forcefield import potential, replicas

#: Relative to the largest of the values compared.
TOLERANCE = 1e-12


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale, equal_nan=True)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIMD_CACHE", str(tmp_path))


def compiled_field(artefacts: Path, monkeypatch: pytest.MonkeyPatch, **more: object) -> ForceField:
    monkeypatch.setenv("EQUIMD_CACHE", str(artefacts))
    made = field(**more)
    made(replicas(2))
    assert made.compiled
    return made


@pytest.mark.parametrize("lmax", [1, 2])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_the_graph_is_the_model(forces: str, lmax: int) -> None:
    """Traced with one model and run with the weights of another: nothing of a model or molecule is in the graph."""
    model = potential(forces=forces, lmax=lmax)
    eager = field(model=model, compile="off")
    batch = eager._batch(2)
    inputs = graph_inputs(model, batch, decision(), LIMITS)
    graph = trace(force_function(model, batch, decision()), replicas(2), inputs)
    assert any(node.target is pairs.gather.default for node in graph.each.graph.nodes) == native.POSSIBLE
    other = potential(forces=forces, lmax=lmax)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.1
    x = replicas(2, seed=3)
    for weights, judge in ((model, decision()), (other, decision(1))):
        constants = evaluate_once(graph.once, graph.attributes, graph_inputs(weights, batch, judge, LIMITS))
        energy, force, features, sound, screen = graph.each(x, *constants)
        expected = field(model=weights, compile="off", decision=judge)(x)
        for actual, wanted in (
            (energy, expected[0]),
            (force, expected[1]),
            (features, expected[2]["features"]),
            (screen, expected[2]["screen"]),
        ):
            close(actual, wanted, 1e-12)
            assert actual.dtype == wanted.dtype == torch.float64
        assert sound.tolist() == [True, True]


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_the_graph_of_a_larger_molecule_is_the_model(forces: str) -> None:
    """All pairs, of which most are beyond the cutoff, against the neighbour list."""
    rng = np.random.default_rng(0)
    system = System.build(rng.choice([1, 6, 8], 45))
    x = torch.tensor(rng.uniform(0.0, 9.0, (1, 45, 3)))
    eager = ForceField(potential(forces=forces, lmax=2), system, features=True, compile="off")
    energy, force, extras = eager(x)
    assert not eager.dense
    batch = replace(eager._batch(1), num_slots=45)
    inputs = graph_inputs(eager.model, batch)
    graph = trace(force_function(eager.model, batch), x, inputs)
    found = graph.each(x, *evaluate_once(graph.once, graph.attributes, inputs))
    close(found[0] - eager.reference, energy - eager.reference, TOLERANCE)
    close(found[1], force, TOLERANCE)
    close(found[2], extras["features"], TOLERANCE)


@pytest.mark.slow
def test_compiled_equals_eager(artefacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In full blocks and one that is not; a broken replica disturbs nobody."""
    fast, eager = compiled_field(artefacts, monkeypatch), field(compile="off")
    x = replicas(5)
    x[3, 2] = x[3, 1] + 0.1  # a hydrogen falls into the oxygen
    energy, force, extras = fast(x)
    expected = eager(x)
    close(energy - eager.reference, expected[0] - eager.reference, TOLERANCE)
    close(force, expected[1], TOLERANCE)
    close(extras["features"], expected[2]["features"], TOLERANCE)
    close(extras["screen"], expected[2]["screen"], 10 * TOLERANCE)
    assert energy.dtype == force.dtype == extras["screen"].dtype == torch.float64
    halted = {event.row for event in physical_decision(LIMITS, x, energy, force).halts}
    assert halted == {3}
    assert extras["sound"].tolist() == [row not in halted for row in range(5)]
    broken = x.clone()
    broken[1, 2, 0] = torch.nan
    again, force_again, extras = fast(broken)
    assert extras["sound"].tolist() == [True, False, True, False, True]
    assert torch.isnan(again).tolist() == [False, True, False, False, False]
    assert torch.equal(force_again[[0, 2, 3, 4]], force[[0, 2, 3, 4]])


@pytest.mark.slow
def test_blocks_side_by_side_are_the_same_bits(artefacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven replicas are four blocks, the last half empty; threads that come and go leave torch's number as it was."""
    threads, x, found = torch.get_num_threads(), replicas(7), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            made = compiled_field(artefacts, monkeypatch)
            found.append(made(x))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(found[0][:2], found[1][:2], strict=True):
        assert len(one) == 7 and torch.equal(one, three)
    for name, one in found[0][2].items():
        assert torch.equal(one, found[1][2][name]), name


def test_a_library_that_is_no_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        SharedGraph(tmp_path / "absent.so", 1)
    with pytest.raises(RuntimeError, match="not a compiled graph"):
        SharedGraph(Path(str(torch._C.__file__)), 1)


def test_one_artefact_serves_other_weights_and_restarts(artefacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_compile", lambda *args: pytest.fail("compiled again"))
    first, x = compiled_field(artefacts, monkeypatch), replicas(3)
    resumed = field("float64", "auto", block=None)
    resumed.load(first.arrays())
    for a, b in zip(first(x)[:2], resumed(x)[:2], strict=True):
        assert torch.equal(a, b)
    assert resumed.compiled
    assert resumed.block == 2
    other = potential()
    with torch.no_grad():
        other.last_layer.weight *= 2.0
    doubled = compiled_field(artefacts, monkeypatch, model=other)
    close(doubled(x)[1], 2.0 * first(x)[1], 1e-12)


@pytest.mark.slow
def test_a_broken_artefact_is_removed(
    artefacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = compiled_field(artefacts, monkeypatch)
    folder = made._compiled.folder
    copy = tmp_path / "compiled" / folder.name
    copy.mkdir(parents=True)
    (copy / compiled.ONCE_FILE).write_bytes((folder / compiled.ONCE_FILE).read_bytes())
    (copy / compiled.GRAPH_FILE).write_bytes((folder / compiled.GRAPH_FILE).read_bytes()[:1000])
    monkeypatch.setenv("EQUIMD_CACHE", str(tmp_path))
    eager = field("float64", "auto")
    eager(replicas(1))
    assert eager.compiled is False
    assert not copy.exists()
    assert "broken" in caplog.text


def test_without_a_compiler_it_runs_eager(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    caplog.set_level(logging.WARNING, logger="equimd")  # whatever commands run before in this process have set
    made = field()
    energy, _, _ = made(replicas(3))
    assert made.compiled is False
    assert len(caplog.records) == 1
    assert "no C++ compiler" in caplog.text
    torch.testing.assert_close(energy, field(compile="off")(replicas(3))[0], rtol=1e-12, atol=0)


def test_a_failing_compiler_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("the compiler crashed")

    monkeypatch.setattr(compiled, "_compile", fail)
    monkeypatch.setattr(compiled, "has_compiler", lambda: True)
    made = field()
    made(replicas(1))
    assert made.compiled is False
    assert "the compiler crashed" in caplog.text
    assert not list((tmp_path / "compiled").iterdir())  # nothing half made is left


@pytest.mark.parametrize(("steps", "built"), [(None, False), (10, False), (10**9, True)])
def test_auto_compiles_only_what_pays(steps: int | None, built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(forcefield, "build", lambda *args: asked.append(args))
    made = field(compile="auto", steps=steps)
    made(replicas(3))
    assert bool(asked) == built
    assert made.compiled is False


def test_the_key_tells_what_code_depends_on() -> None:
    def key(dtype: str = "float64", count: int = 2, judge: StepDecision | None = None, **config: object) -> str:
        model = potential(dtype, **config)
        batch = field(model=model)._batch(count)
        return compiled.artefact_key(model, graph_inputs(model, batch, judge), count, SYSTEM.n_atoms)

    same = key()
    assert key() == same
    assert key(elements=(1, 6, 8, 9)) == same
    others = [key("float32"), key(count=4), key(judge=decision()), key(cutoff=3.5), key(num_rbf=7)]
    assert len({same, *others}) == 1 + len(others)
    assert key(judge=decision(1)) == key(judge=decision())


def test_blocks_leave_few_places_empty() -> None:
    """Nor threads without a block."""
    assert compiled_block_size(2, 9, 3 * 128, 4) == 2 and compiled_block_size(2, 9, 3 * 128, 4, threads=2) == 1
    assert compiled_block_size(1, 9, 3 * 128, 4) == 1
    assert compiled_block_size(32, 9, 3 * 128, 4) == 4
    assert compiled_block_size(9, 9, 3 * 128, 4) in (1, 2)
    assert compiled_block_size(32, 21, 3 * 128, 4) == 1


def test_portions_of_a_task_share_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their size; else the last one would be compiled for again."""
    built = list[int]()
    monkeypatch.setattr("equimd.forces.forcefield.load", lambda model, batch, *_: built.append(batch.num_structures))
    monkeypatch.setattr("equimd.forces.forcefield.build", lambda *_: None)
    model = potential("float64")
    for count in (24, 17, 3):
        ForceField(model, SYSTEM, compile="on", replicas=24).begin(torch.zeros(count, SYSTEM.n_atoms, 3))
    assert len(built) == 3 and len(set(built)) == 1
    ForceField(model, SYSTEM, compile="on").begin(torch.zeros(1, SYSTEM.n_atoms, 3))
    assert built[-1] == 1 < built[0]
