"""The run folder: written whole, refused where it is broken, newer, or somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equimd.config import ModelConfig, RunConfig, parse_config
from equimd.data.content import Hashes
from equimd.errors import RunError
from equimd.files import load_tensors, save_tensors
from equimd.run import MODEL_FILE, RUN_FILE, Run, free_name, load_model, save_model

SMALL = ModelConfig(elements=(1, 8), num_features=4, num_layers=1, num_rbf=4, num_readout=4)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    from equimd.model.painn.potential import Potential

    save_model(tmp_path / MODEL_FILE, SMALL, Potential(SMALL).state_dict())
    return tmp_path / MODEL_FILE


def test_a_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    from equimd.model.painn.potential import Potential

    model = Potential(SMALL)
    model.atomic_energies[8] = -2041.123456789012345
    save_model(tmp_path / "a.safetensors", SMALL, model.state_dict(), epoch=3)
    again, meta = load_model(tmp_path / "a.safetensors")
    assert again.config == SMALL
    assert meta["epoch"] == 3
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
        assert a.dtype == b.dtype


@pytest.mark.parametrize("cut", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(model_file: Path, cut: int) -> None:
    content = model_file.read_bytes()
    model_file.write_bytes(content[:cut])
    with pytest.raises(RunError, match="truncated or damaged"):
        load_model(model_file)


def test_an_altered_file_is_refused(model_file: Path) -> None:
    content = bytearray(model_file.read_bytes())
    content[-3] ^= 1
    model_file.write_bytes(content)
    with pytest.raises(RunError, match="checksum"):
        load_model(model_file)


def test_a_newer_format_is_refused_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equimd.run.FORMAT_VERSION", 7)
    monkeypatch.setattr("equimd.files.TENSORS_VERSION", 7)
    save_tensors(tmp_path / "a", {"x": torch.zeros(2)}, {}, "model")
    Run.create(tmp_path / "run", RunConfig(), {})
    monkeypatch.undo()
    with pytest.raises(RunError, match="format version 7, this equimd reads up to 1"):
        load_tensors(tmp_path / "a", "model")
    with pytest.raises(RunError, match="format version 7"):
        Run.open(tmp_path / "run")


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(RunError, match="is not an equimd model"):
        load_model(tmp_path / "other.safetensors")
    with pytest.raises(RunError, match="no such file"):
        load_model(tmp_path / "absent.safetensors")


def test_an_output_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", RunConfig(), {})
    with pytest.raises(RunError, match="holds another run"):
        Run.create(tmp_path / "run", RunConfig(), {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        Run.create(tmp_path / "other", RunConfig(), {})
    assert (tmp_path / "other/notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        Run.create(tmp_path / "file", RunConfig(), {})


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        Run.open(tmp_path / "absent")
    with pytest.raises(RunError, match="is not a run"):
        Run.open(tmp_path)
    (tmp_path / RUN_FILE).write_text("{ broken")
    with pytest.raises(RunError, match="cannot be read"):
        Run.open(tmp_path)


def test_settings_and_hashes_come_back(tmp_path: Path) -> None:
    config = parse_config({"data": "a.npz", "max-time": "45m", "splits": [950, 50, 0], "lr": "3e-4", "lmax": 2})
    run = Run.create(tmp_path / "run", config, {"data": {"files": ["a.npz"]}})
    run.save_hashes("train", Hashes.read(f"{'ab' * 16} {'cd' * 16}"))
    again = Run.open(tmp_path / "run")
    assert again.config == config
    assert again.hashes("train") == ["ab" * 16, "cd" * 16]
    assert again.hashes("val") == []
    assert again.info["versions"]["torch"] == torch.__version__.split("+")[0] or again.info["versions"]["torch"]
    run.update_info({"status": "completed"})
    assert again.info["status"] == "completed"
    assert again.info["data"] == {"files": ["a.npz"]}


def test_names_of_new_runs_count_up(tmp_path: Path) -> None:
    first = free_name("ethanol", tmp_path)
    first.mkdir()
    assert (first.name, free_name("ethanol", tmp_path).name) == ("ethanol-001", "ethanol-002")
