"""The run folder: everything a training leaves behind, each file written whole or not at all.

- ``config.yaml``: the settings, ready for ``equimd train``;
- ``run.json``: format version, package versions, hashes of model and data, status;
- ``model.safetensors``: the best weights by validation (moving average), ``last.safetensors``: the last ones. Both
  carry their :class:`~equimd.config.ModelConfig` in the file, so that each is a model by itself;
- ``split.json``: rows of the data in train, validation and test; ``train_hashes.txt``, ``val_hashes.txt``: content
  hashes of those frames, one a line, so that nobody calibrates or tests on them unawares;
- ``metrics.csv``, ``test.json``, PNG plots; ``checkpoint/latest.safetensors``: where ``--resume`` goes on.

Nothing in it is unpickled, so that opening somebody else's run runs none of their code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimd.config import ModelConfig, RunConfig, config_text, parse_config, read_config, saved_model
from equimd.data.content import Hashes
from equimd.errors import ConfigError, RunError
from equimd.files import (
    STRANGE,
    check_output,
    check_version,
    load_tensors,
    new_folder,
    replacing,
    save_tensors,
    understood,
    versions,
    write_atomic,
    write_json,
)
from equimd.shown import Shown

if TYPE_CHECKING:
    from torch import Tensor

    from equimd.model.painn.potential import Potential

FORMAT_VERSION = 1
MODEL_FILE, LAST_FILE, RUN_FILE, CONFIG_FILE = "model.safetensors", "last.safetensors", "run.json", "config.yaml"
CHECKPOINT_FILE = "checkpoint/latest.safetensors"


def save_model(path: str | Path, config: ModelConfig, weights: Mapping[str, Tensor], **meta: Any) -> str:
    """Write a model (settings and weights in one file); returns its hash."""
    return save_tensors(path, weights, {"config": config.model_dump(mode="json"), **meta}, "model")


def load_model(path: str | Path) -> tuple[Potential, dict[str, Any]]:
    """The potential written by :func:`save_model`, on the CPU, and the file's metadata.

    Raises:
        RunError: the file is missing, damaged or newer than this version.
    """
    from equimd.model.build import build_model
    from equimd.model.differentiable import ordinary_mode

    tensors, meta = load_tensors(path, "model")
    try:
        with ordinary_mode():
            model = build_model(ModelConfig.parse(saved_model(meta["config"])))
            model.load_state_dict(tensors)
    except (ConfigError, RuntimeError, *STRANGE) as error:
        reason = error.what if isinstance(error, ConfigError) else str(error).strip() or type(error).__name__
        what = f"the model does not fit this version of equimd ({reason.splitlines()[0]})"
        raise RunError(what, where=str(path)) from None
    return model.eval(), meta


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A run folder on disk."""

    path: Path

    def _shown(self) -> Mapping[str, str]:
        try:
            return {"path": str(self.path), "status": str(self.info.get("status", "unknown"))}
        except RunError:
            return {"path": str(self.path)}

    @classmethod
    def create(cls, out: str | Path, config: RunConfig, info: Mapping[str, Any], *, overwrite: bool = False) -> Run:
        """Begin a new run in ``out``; ``overwrite`` replaces one that is there.

        Raises:
            RunError: the folder holds another run, or anything else.
        """
        check_free(out, overwrite)
        run = cls(new_folder(out))
        run.update_info({"kind": "run", "version": FORMAT_VERSION, "versions": versions(), "status": "started", **info})
        run.save_config(config)
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run.

        Raises:
            RunError: it is none, or of a newer format.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise RunError(
                "there is no such run folder", where=str(path), hint="give the folder that `equimd train` wrote (--out)"
            )
        if not (run.path / RUN_FILE).is_file():
            raise RunError(f"is not a run: it has no {RUN_FILE}", where=str(path))
        check_version(run.info.get("version", 0), FORMAT_VERSION, path, "the run")
        return run

    @property
    def info(self) -> dict[str, Any]:
        """The contents of run.json."""
        with understood(path := self.path / RUN_FILE):
            return dict(json.loads(path.read_text(encoding="utf-8")))

    def update_info(self, values: Mapping[str, Any]) -> None:
        """Set keys of run.json."""
        path = self.path / RUN_FILE
        current = self.info if path.is_file() else {}
        write_json(path, {**current, **values})

    @property
    def config(self) -> RunConfig:
        """The settings the run was trained with."""
        path = self.path / CONFIG_FILE
        try:
            return parse_config(saved_model(read_config(path)), where=str(path))
        except ConfigError as error:
            raise RunError(error.what, where=str(path), hint=error.hint) from None

    def save_config(self, config: RunConfig) -> None:
        """Write config.yaml."""
        write_atomic(self.path / CONFIG_FILE, config_text(config, comments=False))

    @property
    def trained(self) -> bool:
        """Whether a training has got so far that there is something to go on from."""
        return self.checkpoint.is_file() or (self.path / MODEL_FILE).exists()

    @property
    def checkpoint(self) -> Path:
        """Where the latest checkpoint stands."""
        return self.path / CHECKPOINT_FILE

    def load_model(self, which: str = "best") -> tuple[Potential, dict[str, Any]]:
        """The potential with the ``best`` (by validation) or ``last`` weights, and its metadata."""
        if which not in ("best", "last"):
            raise ConfigError(f"there are no weights '{which}'", where=str(self.path), hint="best or last")
        return load_model(self.path / (LAST_FILE if which == "last" else MODEL_FILE))

    def save_hashes(self, name: str, hashes: Hashes) -> None:
        """Keep the content hashes of the frames of one part, such as ``train``."""
        with replacing(self.path / f"{name}_hashes.txt") as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(hashes.text(after="\n"))

    def hashes(self, name: str) -> Hashes:
        """Content hashes of the frames of one part, in order."""
        path = self.path / f"{name}_hashes.txt"
        with understood(path):
            return Hashes.read(path.read_text(encoding="utf-8") if path.is_file() else "")


def check_free(path: str | Path, overwrite: bool = False, reads: Iterable[str | Path] = ()) -> None:
    """Raise RunError unless ``path`` can take a new run; as :func:`~equimd.files.check_output`."""
    resume = f"equimd train --resume {path}"
    check_output(path, overwrite, made=("run", RUN_FILE), resume=resume, reads=reads)


def free_name(stem: str, parent: str | Path = "runs") -> Path:
    """The first of ``parent/stem-001``, ``-002``, ... that does not exist."""
    number = 1
    while (path := Path(parent) / f"{stem}-{number:03d}").exists():
        number += 1
    return path
