"""What is spoiled beside data: run folders, simulations, files of settings, and options of the command line."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import struct
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import TOKENS, spoil, spoil_text, spoil_value
from tests.golden.saved import SAVED
from tests.golden.shell import quick_layers

#: What a command line or a file of settings may hold in the place of a value.
VALUES = (
    *TOKENS, "1e23", "1e300", "-.inf", ".nan", ".inf", "[a]", "[" * 1000, "{a: b}", "10000000000000000000000000", "1h",
    "x" * 300, "a/" * 3000, "bundled:", "bundled:" + "y" * 300, "@", "!!python/object:os.system", "2001-13-45", "~",
)  # fmt: skip
#: Commands that end early: what they are to read is not there.
COMMANDS = (
    ("train", "--data", "absent.xyz"), ("simulate", "absent", "absent.xyz"), ("calibrate", ".", "--data", "absent.xyz"),
    ("evaluate", ".", "--data", "absent.xyz"), ("predict", ".", "absent.xyz"), ("compare", ".", "run", "absent.xyz"),
    ("audit", ".", "--starts", "absent.xyz"), ("learn", "absent.xyz"),
    ("data", "generate", "absent.xyz", "--out", "a.h5"), ("data", "label", "absent.xyz", "--out", "a.h5"),
    ("data", "convert", "absent.xyz", "--out", "a.h5"),
)  # fmt: skip


def folders(_: Path) -> list[Path]:
    return [SAVED / "direct", SAVED / "lmax1", SAVED / "simulation"]


def spoil_folder(valid: list[Path], rng: random.Random, folder: Path) -> Path:
    """One file of a run or a simulation: its text, its JSON, the header of its tensors, or any of its bytes."""
    source = rng.choice(valid)
    path = folder / source.name
    shutil.copytree(source, path)
    file = rng.choice(sorted(p for p in path.rglob("*") if p.is_file()))
    data, how = file.read_bytes(), rng.random()
    if how < 0.05:
        file.unlink()
    elif file.suffix == ".safetensors" and how < 0.8:
        size = struct.unpack("<Q", data[:8])[0]
        head = json.loads(data[8 : 8 + size])
        inner = spoil_value(json.loads(head["__metadata__"]["equimd"]), rng)
        head["__metadata__"]["equimd"] = json.dumps(inner)
        text = json.dumps(head).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    elif file.suffix == ".json" and how < 0.8:
        file.write_text(json.dumps(spoil_value(json.loads(data), rng)))
    elif file.suffix in (".yaml", ".csv", ".txt", ".xyz") and how < 0.8:
        file.write_bytes(_spoil_setting(data.decode(), rng).encode("utf-8", errors="surrogatepass"))
    else:
        file.write_bytes(spoil(data, rng, [data]))
    return path


def _spoil_setting(text: str, rng: random.Random) -> str:
    """The value of a line ``key: value``, or any words."""
    lines = [k for k, line in enumerate(text.split("\n")) if re.match(r"\w+:", line)]
    if not lines or rng.random() < 0.3:
        return spoil_text(text, rng)
    out, k = text.split("\n"), rng.choice(lines)
    out[k] = f"{out[k].split(':')[0]}: {rng.choice(VALUES)}"
    return "\n".join(out)


def notes(folder: Path) -> list[Path]:
    """What audits and learn leave beside a model."""
    from equimd.guard.certificate import save_certificate
    from equimd.tasks.audit.tries import Tries
    from equimd.tasks.learn.journal import Journal
    from tests.tasks.audit.test_audit import FINDING, PLAN, certificate

    save_certificate(folder, certificate())
    tries = Tries.of(folder)
    tries.begin({"error": 0.1}, PLAN)
    tries.finish(FINDING)
    journal = Journal(folder)
    journal.decide("train-0", lambda: {"num_epochs": 4})
    journal.once("train-0", lambda: {"val_forces_mae": 0.1})
    return sorted(folder.iterdir())


def spoil_notes(valid: list[Path], rng: random.Random, folder: Path) -> Path:
    """Its values, or any of its bytes."""
    source = rng.choice(valid)
    path, data = folder / source.name, source.read_bytes()
    if rng.random() < 0.8:
        path.write_text(json.dumps(spoil_value(json.loads(data), rng)))
    else:
        path.write_bytes(spoil(data, rng, [data]))
    return path


def read_notes(path: Path) -> None:
    """As a simulation, an audit, or a learn run that goes on would."""
    from equimd.guard.certificate import load_certificate, words
    from equimd.tasks.audit.tries import Tries
    from equimd.tasks.learn.journal import Journal
    from equimd.tasks.learn.work import label_counts

    if found := load_certificate(path.parent, "abc"):
        words(found)
    Tries.of(path.parent).open({"error": 0.1})
    journal = Journal(path.parent)
    label_counts(journal)
    journal.decision("train-0")


def open_folder(path: Path) -> None:
    """Everything that is read of a run, or of a simulation that goes on."""
    with quick_layers():
        _open_simulation(path) if path.name == "simulation" else _open_run(path)


def _open_run(path: Path) -> None:
    from equimd.calculators import load
    from equimd.data.split import Split
    from equimd.guard.certificate import load_certificate
    from equimd.plots import read_metrics
    from equimd.run import Run
    from equimd.tasks.audit.tries import Tries
    from equimd.training.checkpoint import load_checkpoint
    from tests.golden.frames import start_of

    run = Run.open(path)
    for read in (lambda: run.config, lambda: run.hashes("train"), lambda: read_metrics(path / "metrics.csv")):
        _refusing(read)
    _refusing(lambda: Split.load(path / "split.json"))
    _refusing(lambda: Tries.of(path))
    _refusing(lambda: load_certificate(path, ""))
    if run.checkpoint.exists():
        _refusing(lambda: load_checkpoint(run.checkpoint, run_identity(run.checkpoint)))
    model = load(path)
    model.predict([start_of(path.name)], uncertainty="auto")
    repr(model), repr(run)


def run_identity(path: Path) -> Any:
    """That of a checkpoint itself, so that the rest of it is read."""
    from equimd.files import load_tensors

    return load_tensors(path, "checkpoint")[1].get("identity")


def _refusing(read: Any) -> None:
    from equimd.errors import EquimdError

    with contextlib.suppress(EquimdError):
        read()


def _open_simulation(path: Path) -> None:
    from equimd.tasks.simulate import session

    ready = session.reopen(path, {"run": str(SAVED / "conservative")})
    session.resume(ready, path)


def settings_files(folder: Path) -> list[Path]:
    from equimd.config import config_text
    from equimd.tasks.learn.report import settings_text as learn
    from equimd.tasks.simulate.settings import settings_text as simulate

    found = []
    for name, text in (("train", config_text()), ("simulate", simulate()), ("learn", learn())):
        (folder / f"{name}.yaml").write_text(text)
        found.append(folder / f"{name}.yaml")
    return found


def spoil_settings(valid: list[Path], rng: random.Random, folder: Path) -> Path:
    source, text = rng.choice(valid), ""
    text = source.read_text()
    for _ in range(rng.choice((1, 1, 2))):
        text = _spoil_setting(text, rng)
    (folder / source.name).write_bytes(text.encode("utf-8", errors="surrogatepass"))
    return folder / source.name


def read_settings(path: Path) -> None:
    """Read, and written again."""
    from equimd.config import config_text, parse_config, read_config
    from equimd.tasks.learn.settings import LearnSettings
    from equimd.tasks.simulate.settings import parse_settings, settings_text

    values = read_config(path)
    if path.stem == "train":
        config_text(parse_config(values))
    elif path.stem == "simulate":
        settings_text(parse_settings(values))
    else:
        LearnSettings.parse(values)


def words(valid: list[Path], rng: random.Random, folder: Path) -> Path:
    """A command with options that it has, and values that they may not have."""
    import typer

    from equimd.cli.main import app

    found = rng.choice(COMMANDS)
    command: Any = typer.main.get_command(app)
    for name in [word for word in found if word in ("data", found[0] if found[0] != "data" else found[1])]:
        command = command.get_command(None, name)
    options = [o for p in command.params for o in p.opts if o.startswith("--") and o not in ("--help", "--template")]
    given = list(found)
    for _ in range(rng.choice((1, 1, 2, 3))):
        given += [rng.choice(options), rng.choice(VALUES)]
    (folder / "words.json").write_text(json.dumps(given))
    return folder / "words.json"


def call(path: Path) -> None:
    """What the command ends in is an exit code of the contract; what it raises is a finding."""
    from typer.testing import CliRunner

    from equimd.cli.main import app

    with contextlib.chdir(path.parent):
        told = CliRunner().invoke(app, json.loads(path.read_text()))
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    if told.exit_code not in (0, 2):
        raise RuntimeError(f"exit code {told.exit_code}: {told.output[-300:]}")
