"""Labels on a cluster, through Parsl (Babuji et al., HPDC 2019), whose configuration file the user has or writes.

The file is Python and names a ``parsl.config.Config`` ``config``; equimd must be installed where its workers run. A
worker or node that is lost costs no label: the frame is handed out again, twice at most.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equimd.data.frames import Frames
from equimd.errors import ConfigError
from equimd.labels.label import Label, ask

AGAIN = 2  # times a frame is handed out again whose worker was lost
LOST = ("WorkerLost", "ManagerLost")


@dataclass
class Cluster:
    """Workers of a Parsl configuration, which stay until :meth:`close`.

    Attributes:
        calculator: the method asked. file: of the configuration. limit: seconds that a call may take.

    Raises:
        ConfigError: Parsl is not installed, or the file is no such configuration.
    """

    calculator: str
    file: Path
    limit: float | None = None
    _kernel: Any = field(default=None, init=False)
    _app: Any = field(default=None, init=False)
    _path: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._config = _read(self.file)

    def labels(self, frames: Mapping[int, Frames]) -> Iterator[tuple[int, Label]]:
        """The label of every frame, as they are finished."""
        if self._kernel is None:
            import parsl

            self._path = os.environ.get("PATH", "")
            # Parsl starts programs of its own by name, which stand beside this Python whether or not it is activated
            os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), self._path])
            self._kernel = parsl.load(self._config)
            self._app = parsl.python_app(ask, data_flow_kernel=self._kernel)
        waiting = {self._ask(frame): (key, 0) for key, frame in frames.items()}
        try:
            while waiting:
                future = next(as_completed(waiting))
                key, before = waiting.pop(future)
                error = future.exception()
                if error is not None and type(error).__name__ in LOST and before < AGAIN:
                    waiting[self._ask(frames[key])] = (key, before + 1)
                elif error is not None:
                    yield key, Label.failure(frames[key], f"{type(error).__name__}: {error}")
                else:
                    yield key, future.result()
        finally:
            for future in waiting:
                future.cancel()

    def _ask(self, frame: Frames) -> Future[Label]:
        options = {} if self.limit is None else {"walltime": self.limit}
        return self._app(self.calculator, frame, **options)

    def close(self) -> None:
        """Give the workers back."""
        if self._kernel is not None:
            self._kernel.cleanup()
            import parsl

            parsl.clear()
            self._kernel = None
            os.environ["PATH"] = self._path


def _read(file: Path) -> Any:
    """The configuration that a file names."""
    try:
        from parsl.config import Config
    except ImportError as error:
        raise ConfigError(
            "labels on a cluster need Parsl, which is not installed", hint="pip install 'equimd[parsl]'"
        ) from error
    if not file.is_file():
        raise ConfigError("no such configuration of Parsl", where=str(file), hint="--executor parsl:FILE.py")
    try:
        found = runpy.run_path(str(file)).get("config")
    except Exception as error:  # somebody's own file may raise anything
        raise ConfigError(f"{type(error).__name__}: {error}", where=str(file)) from error
    if not isinstance(found, Config):
        raise ConfigError("does not name a parsl.config.Config `config`", where=str(file))
    return found
