"""States (charge, multiplicity) that a model never saw, or that nobody states, are refused wherever it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from typer.testing import CliRunner

import equimd
from equimd.calculators.ipi import Driver
from equimd.cli.main import app
from equimd.data.frames import Frames
from equimd.data.state import joined, refuse_unknown
from equimd.errors import ConfigError, DataError, EquimdError, ModelError
from equimd.run import Run
from equimd.training.setup import complete, prepare
from tests.training.test_training import charged, start
from tests.training.toy import WATER, toy_config, toy_file

STATES = [(0, 1), (1, 2)]
LISTED = "charge 0, spin 1; charge 1, spin 2"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    data = charged(folder / "two.xyz", [STATES[k % 2] for k in range(40)])
    start(toy_config(data, num_epochs=2), folder / "run").fit()
    return folder / "run"


@pytest.fixture(scope="module")
def neutral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one state, which it does not see."""
    folder = tmp_path_factory.mktemp("one-state")
    start(toy_config(charged(folder / "one.xyz", [(0, 1)] * 40), num_epochs=1), folder / "run").fit()
    return folder / "run"


def water(**info: Any) -> Atoms:
    return Atoms("OHH", WATER, info=info)


UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({}, "charge and multiplicity of a structure are not stated"),
    ({"spin": 1}, "charge of a structure is not stated"),
    ({"charge": 0}, "multiplicity of a structure is not stated"),
    ({"charge": 3, "spin": 2}, "states the model never saw: charge 3, spin 2"),
    ({"charge": 1, "spin": 1}, "states the model never saw: charge 1, spin 1"),
    ({"charge": 40, "spin": 1}, "states the model never saw: charge 40, spin 1"),
]


@pytest.mark.parametrize(("info", "words"), UNKNOWN)
def test_unknown_states_are_refused_by_every_call(run: Path, info: dict[str, Any], words: str, tmp_path: Path) -> None:
    atoms, model = water(**info), equimd.load(run)
    calls = [
        lambda: model.predict(atoms),
        lambda: model.calculator().get_property("energy", atoms),
        lambda: Driver(model.calculator(), atoms, tmp_path, tmp_path / "flagged.xyz"),
        lambda: equimd.predict(run, atoms),
        lambda: equimd.simulate(run, atoms, steps=1, out=tmp_path / "md"),
        lambda: equimd.evaluate(run, [atoms.copy()]),
    ]
    for call in calls:
        with pytest.raises(ModelError, match=words) as caught:
            call()
        assert caught.value.hint.endswith(LISTED)
    assert not (tmp_path / "md").exists()


def test_commands_ask_for_the_state_and_take_it(run: Path, tmp_path: Path) -> None:
    path, stated = tmp_path / "water.xyz", tmp_path / "stated.xyz"
    write(path, water(), plain=True)
    write(stated, water(charge=1, spin=2))
    right = {s: equimd.load(run).predict(water(charge=s[0], spin=s[1])).energy for s in STATES}
    assert abs(right[0, 1] - right[1, 2]) > 1e-3
    for command in (["predict"], ["simulate", "--steps", "2"], ["ipi", "--unix", "nowhere", "--wait", "0"]):
        told = CliRunner().invoke(app, [command[0], str(run), str(path), *command[1:]])
        assert told.exit_code == 2 and "--charge and --spin" in told.output, told.output
    for charge, spin in STATES:
        state = ["--charge", str(charge), "--spin", str(spin)]
        told = CliRunner().invoke(
            app, ["predict", str(run), str(path), *state, "--out", str(tmp_path / f"p{charge}.xyz")]
        )
        assert told.exit_code == 0, told.output
        out = read(tmp_path / f"p{charge}.xyz")
        assert (out.info["charge"], out.info["spin"]) == (charge, spin)
        assert out.get_potential_energy() == pytest.approx(right[charge, spin], abs=1e-6)
        folder = tmp_path / f"md{charge}"
        options = ["--steps", "2", "--save-every", "1", "--extxyz", "--out", str(folder)]
        told = CliRunner().invoke(app, ["simulate", str(run), str(path), *state, *options])
        assert told.exit_code == 0, told.output
        first = read(next(folder.glob("*.extxyz")), 0)
        assert first.get_potential_energy() == pytest.approx(right[charge, spin], abs=1e-5)
        assert (first.info["charge"], first.info["spin"]) == (charge, spin)  # 0 is stated, not left out
    told = CliRunner().invoke(app, ["predict", str(run), str(stated), "--charge", "0"])
    assert told.exit_code == 2 and "charge 0 is told for all, and 1 is stated here" in told.output


def test_data_whose_state_is_told(run: Path, tmp_path: Path) -> None:
    data = toy_file(tmp_path / "unstated.xyz", 6, seed=4)
    told = CliRunner().invoke(app, ["evaluate", str(run), "--data", str(data)])
    assert told.exit_code == 2 and "not stated" in told.output and str(data) in told.output
    told = CliRunner().invoke(app, ["calibrate", str(run), "--data", str(data)])
    assert told.exit_code == 2 and "not stated" in told.output
    assert equimd.evaluate(run, str(data), charge=1, spin=2).frames.frames().states == {(1, 2)}
    write(tmp_path / "s.xyz", [a for a in read(data, ":") if not a.info.update(charge=1, spin=2)])
    for value in (True, 0.5, float("nan"), "abc"):
        with pytest.raises(ConfigError, match=f"charge = {value!r}: input should be"):
            equimd.evaluate(run, str(data), charge=value, spin=2)
    with pytest.raises(DataError, match="frame 0: spin 1 is told for all, and 2 is stated here"):
        equimd.evaluate(run, tmp_path / "s.xyz", spin=1)


def test_the_calculator_follows_the_state(run: Path) -> None:
    model = equimd.load(run)
    energy = {s: model.predict(water(charge=s[0], spin=s[1])).energy for s in STATES}
    atoms = water(total_charge=0, spin=1)
    atoms.calc = model.calculator()
    assert atoms.get_potential_energy() == pytest.approx(energy[0, 1], abs=1e-6)
    atoms.info.update(total_charge=1, spin=2)
    assert atoms.get_potential_energy() == pytest.approx(energy[1, 2], abs=1e-6)
    atoms.info["total_charge"] = 0
    with pytest.raises(ModelError, match="charge 0, spin 2"):
        atoms.get_potential_energy()
    for value in (True, 0.5, None, float("nan"), "abc"):
        atoms.info["total_charge"] = value
        with pytest.raises(DataError, match=f"total_charge is '{value}', expected a whole number"):
            atoms.get_potential_energy()
    plain = water()
    plain.calc = model.calculator(charge=1, spin=2)
    assert plain.get_potential_energy() == pytest.approx(energy[1, 2], abs=1e-6)
    with pytest.raises(DataError, match="charge is '0.5'"):
        model.calculator(charge=0.5)  # type: ignore[arg-type]


def test_a_model_of_one_state_answers_for_it_alone(neutral: Path, tmp_path: Path) -> None:
    model = equimd.load(neutral)
    assert not model.potential.sees_charge_spin and model.config.states == ((0, 1),)
    energy = model.predict(water()).energy
    assert model.predict(water(charge=0, spin=1)).energy == pytest.approx(energy, abs=1e-6)
    for info in ({"charge": 1}, {"spin": 3}):
        with pytest.raises(ModelError, match=r"never saw: (charge 1|spin 3)[\s\S]*it knows charge 0, spin 1"):
            model.predict(water(**info))
    unstated = tmp_path / "unstated"
    start(toy_config(toy_file(tmp_path / "a.xyz"), num_epochs=1), unstated).fit()
    silent, charged_water = equimd.load(unstated), water(charge=3)
    calls = [
        lambda: silent.predict(charged_water),
        lambda: silent.calculator().get_property("energy", charged_water),
        lambda: equimd.simulate(unstated, charged_water, steps=1, out=tmp_path / "md"),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match="charge 3: the training frames state none"):
            call()


def test_runs_without_a_record_of_states_answer_as_before(run: Path, tmp_path: Path) -> None:
    from equimd.run import save_model

    potential, meta = Run.open(run).load_model()
    config = potential.config.model_copy(update={"states": ()})
    save_model(tmp_path / "old.safetensors", config, potential.state_dict(), **meta.get("meta", {}))
    from equimd.run import load_model

    old, _ = load_model(tmp_path / "old.safetensors")
    assert np.isfinite(equimd.LoadedModel(old).predict(water()).energy)
    with pytest.raises(ModelError, match="out of range"):
        equimd.LoadedModel(old).predict(water(charge=40))


def test_training_refuses_states_in_validation_alone_and_keeps_those_it_starts_from(run: Path, tmp_path: Path) -> None:
    data = charged(tmp_path / "train.xyz", [STATES[k % 2] for k in range(20)])
    other = charged(tmp_path / "val.xyz", [(0, 1), (-1, 2)] * 4)
    for key in ("val_data", "test_data"):
        splits = {"val_data": (20, 0, 0), "test_data": (16, 4, 0)}[key]
        with pytest.raises(DataError, match="states that no training frame has: charge -1, spin 2"):
            prepare(complete(toy_config(data, splits=splits, **{key: (str(other),)})))
    more = charged(tmp_path / "more.xyz", [(-1, 2)] * 40)
    setup = prepare(complete(toy_config(more, init=str(run))))
    assert setup.model.config.states == ((-1, 2), (0, 1), (1, 2))
    with pytest.raises(DataError, match="some state none"):
        prepare(complete(toy_config(toy_file(tmp_path / "unstated.xyz"), init=str(run))))
    told = complete(toy_config(tmp_path / "unstated.xyz", init=str(run), charge=1, spin=2))
    assert prepare(told).model.config.states == tuple(STATES)


@pytest.mark.parametrize(
    ("known", "asked", "seen", "right"),
    [
        ((), {(None, 0), (5, 7)}, True, True),
        (((None, 1), (None, 3)), {(None, 3), (0, 1)}, True, True),  # charges were never stated: 0 by convention
        (((None, 1), (None, 3)), {(1, 1)}, True, False),
        (((-1, 0), (0, 0)), {(0, 0)}, True, True),
        (((-1, 0), (0, 0)), {(None, 0)}, True, False),
        (((-1, 0), (0, 0)), {(0, 1)}, True, False),  # multiplicities were never stated: what 1 would mean is not known
        (((None, 0),), {(3, 2)}, False, True),
        (((1, 2),), {(None, 0)}, False, True),
        (((1, 2),), {(0, 0)}, False, False),
    ],
)
def test_the_rule(known: tuple[tuple[int | None, int], ...], asked: set[Any], seen: bool, right: bool) -> None:
    if right:
        refuse_unknown(asked, known, seen=seen)
    else:
        with pytest.raises(ModelError):
            refuse_unknown(asked, known, seen=seen)


def test_states_that_are_learned_together() -> None:
    assert joined({(None, 0)}, None) == ((None, 0),)
    assert joined({(None, 1), (0, 1)}, None) == ((0, 1),)
    for mixed in ({(None, 0), (1, 0)}, {(0, 1), (1, 0)}):
        with pytest.raises(EquimdError, match="some state none"):
            joined(mixed, None)
    block = Frames.from_ase([water(), water(charge=0, spin=1), water(charge=-1)])
    assert block.states == {(None, 0), (0, 1), (-1, 0)}


def test_the_reported_case(shared_data: Path, tmp_path: Path) -> None:
    """charge_spin_train.xyz: four states; a water whose state is not stated was -132 eV, its right answer -137.97."""
    cases = shared_data / "cases"
    if not cases.is_dir():
        pytest.skip(f"no cases in {cases}")
    config = toy_config(cases / "charge_spin_train.xyz", splits=(200, 20, 0), num_epochs=7, num_features=16)
    start(config, tmp_path / "run").fit()
    with pytest.raises(ModelError, match="are not stated"):
        equimd.predict(tmp_path / "run", cases / "charge_spin_not_stated.xyz")
    right = equimd.predict(tmp_path / "run", cases / "charge_spin_stated.xyz")[0].energy
    assert right == pytest.approx(-137.97, abs=0.5)
    told = equimd.predict(tmp_path / "run", cases / "charge_spin_not_stated.xyz", charge=0, spin=1)[0].energy
    assert told == pytest.approx(right, abs=1e-6)
