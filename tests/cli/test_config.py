"""``equimd config`` and the settings files it writes and reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from equimd.cli.main import app
from equimd.config import PRESETS, RunConfig, config_keys, config_text, flat_config, parse_config, saved_model
from equimd.errors import ConfigError

runner = CliRunner()


def test_the_template_is_all_defaults_and_explains_each_key() -> None:
    told = runner.invoke(app, ["config", "template"])
    assert told.exit_code == 0
    values = yaml.safe_load(told.stdout)
    assert set(values) == set(config_keys())
    assert parse_config(values) == RunConfig()
    for line in told.stdout.splitlines():
        assert not line or line.startswith("#") or "  # " in line


def test_settings_survive_a_round_trip() -> None:
    config = parse_config(
        {"data": ["a", "b"], "splits": [0.7, 0.2, 0.1], "max_time": "1h30m", "num-rbf": 8, "lr": "1e-4"}
    )
    assert parse_config(yaml.safe_load(config_text(config, comments=False))) == config
    assert flat_config(config)["max_time"] == 5400.0


def test_models_of_before_had_as_many_tensors_as_scalars() -> None:
    before = {"num_features": 64, "lmax": 2}
    assert parse_config(saved_model(before)).model.tensor_channels == 64
    assert parse_config(before).model.tensor_channels == 32, "of today"
    assert saved_model({**before, "num_tensors": None})["num_tensors"] is None, "saved today, by default"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_lie_beneath_what_is_stated(name: str) -> None:
    plain = flat_config(parse_config({"preset": name, "num_rbf": 8}))
    assert plain == {**flat_config(RunConfig()), **PRESETS[name], "num_rbf": 8}
    assert parse_config({"preset": name, "lmax": 3}).model.lmax == 3
    assert parse_config({"preset": name, "num-features": 32}).model.tensor_channels == (16 if name == "default" else 32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "huge"}, "unknown preset 'huge'\n  try: small, default"),
        ({"num_epoch": 3}, "unknown key 'num_epoch'\n  try: did you mean 'num_epochs'?"),
        ({"batch-size-trian": 3}, "did you mean 'batch_size_train'?"),
        ({"elements": [1]}, "unknown key 'elements'"),
        ({"lr": -1}, "lr = -1: input should be greater than 0"),
        ({"max_time": "4 parsecs"}, "is not a time; write 90s, 45m, 2h or 1h30m"),
        ({"forces": "both"}, "'conservative' or 'direct'"),
        ({"energy_weight": 0, "forces_weight": 0}, "nothing would be learned"),
        ({"seed": 1.5}, "seed = 1.5"),
        ({"num_features": 16, "num_tensors": 32}, "num_tensors = 32 is more than num_features = 16"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(values, where="config.yaml")
    assert message in str(refused.value)
    assert str(refused.value).startswith("config.yaml: ")


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "just words"])
def test_files_that_are_no_settings_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    told = runner.invoke(app, ["config", "check", str(path)])
    assert told.exit_code == 2
    assert "c.yaml" in told.stderr


def test_check_completes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: x.npz\nmax-time: 2h\n")
    told = runner.invoke(app, ["config", "check", str(path)])
    values = yaml.safe_load(told.stdout)
    assert (values["data"], values["max_time"], values["lr"]) == (["x.npz"], 7200.0, RunConfig().training.lr)
