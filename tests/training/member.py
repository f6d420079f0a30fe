"""One process of several that train together: runs ``equimd`` commands one after the other in one process group.

``python -m tests.training.member FOLDER`` reads the commands from FOLDER/commands.json, and writes exit codes and
output to FOLDER/RANK.json. In the run folder named ``cut``, the second process gets SIGTERM after some steps.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from equimd.cli.main import app
from equimd.training import parallel
from equimd.training.loop import Trainer

CUT = 13  # steps


def main(folder: Path) -> None:
    one_step, told = Trainer._one_step, []

    def perhaps_cut(self: Trainer, batch: Any) -> None:
        one_step(self, batch)
        if self.run.path.name == "cut" and self.processes.rank == 1 and self.progress.step == CUT:
            signal.raise_signal(signal.SIGTERM)

    Trainer._one_step = perhaps_cut  # type: ignore[method-assign]
    with parallel.launched() as processes:
        parallel.launched = lambda: contextlib.nullcontext(processes)  # type: ignore[assignment]
        for words in json.loads((folder / "commands.json").read_text()):
            result = CliRunner().invoke(app, words)
            told.append({"code": result.exit_code, "out": result.stdout, "err": result.stderr})
            (folder / f"{processes.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
