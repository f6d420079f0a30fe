"""Settings of a simulation: YAML and options, lengths, thresholds with their units."""

from __future__ import annotations

import pytest
import yaml

from equimd.errors import ConfigError
from equimd.guard.thresholds import parse_threshold
from equimd.tasks.simulate.settings import DEFAULT_STEPS, SimulationSettings, parse_settings, settings_text


def test_the_template_reads_back_as_the_defaults() -> None:
    read = yaml.safe_load(settings_text())
    assert read.keys() == SimulationSettings.model_fields.keys()
    assert parse_settings(read) == SimulationSettings()


@pytest.mark.parametrize("threshold", ["off", "auto", "0.15eV/A", "0.15", None])
def test_settings_survive_yaml(threshold: str | None) -> None:
    settings = parse_settings({"run": "r", "time": "1ns", "uq-threshold": threshold, "relax": True})
    assert parse_settings(yaml.safe_load(settings_text(settings))) == settings


def test_off_and_numbers_of_yaml_are_thresholds() -> None:
    values = yaml.safe_load("uq_threshold: off")
    assert values == {"uq_threshold": False}
    assert parse_settings(values).uq_threshold == "off"
    assert parse_settings({"uq_threshold": 0.2}).uq_threshold == "0.2"


@pytest.mark.parametrize(
    ("values", "steps"),
    [({}, DEFAULT_STEPS), ({"steps": 7}, 7), ({"time": 2}, 4000), ({"time": "500fs", "dt": 0.25}, 2000),
     ({"time": "0.1 ns"}, 200_000)],
)  # fmt: skip
def test_length(values: dict, steps: int) -> None:
    assert parse_settings(values).n_steps == steps


def test_a_new_length_replaces_the_old_one() -> None:
    base = parse_settings({"time": 1})
    assert parse_settings({"steps": 30}, base=base).n_steps == 30
    assert parse_settings({"time": 3}, base=parse_settings({"steps": 30})).n_steps == 6000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 5, "time": 1}, "give one"),
        ({"time": "5 h"}, "is not a time"),
        ({"temperatur": 300}, "did you mean 'temperature'"),
        ({"dt": 0}, "dt = 0"),
        ({"ensemble": "npt"}, "ensemble = 'npt'"),
        ({"replicas": 0}, "replicas = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"ensemble": "nose-hoover", "tau": 0.05}, "tau = 0.05 fs is less than 10 time steps of 0.5 fs"),
        ({"friction": 10}, "friction = 10 1/fs is a time constant of 0.1 fs"),
        ({"ensemble": "nve", "friction": 10, "equilibrate": 1}, "friction = 10 1/fs"),
        ({"dt": 0.0005}, "a time step of 0.0005 fs"),
        ({"temperature": 0.0257}, "a temperature of 0.0257 K"),
    ],
)
def test_what_cannot_be_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_settings(values, where="here")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("auto", "auto"), ("OFF", "off"), ("0.15eV/A", 0.15), ("0.15 eV/Å", 0.15), ("2e-1", 0.2), (".5ev/angstrom", 0.5),
     ("1e-1eV/A", 0.1)],
)  # fmt: skip
def test_thresholds(text: str, meaning: str | float) -> None:
    assert parse_threshold(text) == meaning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("150meV/A", "in mev/a, forces are in eV/A"),
        ("0.15eV", "in ev, forces"),
        ("3kcal/mol/A", "forces are in eV/A"),
        ("-0.1", "not a positive number"),
        ("0eV/A", "not a positive number"),
        ("never", "is not a threshold"),
        ("1.2.3", "is not a threshold"),
        ("", "is not a threshold"),
        ("nan", "is not a threshold"),
    ],
)
def test_thresholds_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="0.15eV/A") as error:
        parse_threshold(text)
    assert message in str(error.value)
