"""``equimd.learn``: from a molecule and a reference method to a certified potential."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimd.config import read_config
from equimd.errors import ConfigError, Interrupted
from equimd.files import plain
from equimd.notices import note
from equimd.progress import Callback, Progress, counted_stages, duration
from equimd.tables import Parts, Tabled, facts
from equimd.tasks.keywords import settings_of, takes
from equimd.tasks.learn import cheap, task
from equimd.tasks.learn.settings import LearnSettings
from equimd.tasks.learn.task import Learned

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.calculators import LoadedModel

FIELDS = {k: v for k, v in LearnSettings.model_fields.items() if k != "molecule"}
STAGE = "learn"


@dataclass(frozen=True, repr=False)
class LearnResult(Tabled, Learned):
    """How a learn run ended. One without a certificate is a result like any other, not an error.

    Attributes:
        folder: of all that was written; ``equimd.learn(resume=folder)`` goes on with it.
        status: ``certified``, ``not_certified``, or ``interrupted``. missing: what keeps it from being certified.
        certificate: as in certificate.json; None without one. words: what it says.
        labels: by use, {train, calibrate, audit, given, failed, total}.
        rounds: a row a model: labels, validation errors, bad frames expected, coverage, halts.
        seconds: of all sessions.
        run: the run folder of the calibrated model that is shipped; None if there is none yet.
    """

    def model(self) -> LoadedModel:
        """The model that is shipped.

        Raises:
            ConfigError: there is none yet.
        """
        from equimd.calculators import load

        if self.run is None:
            raise ConfigError("no model is calibrated yet", where=str(self.folder), hint="go on with more max_time")
        return load(self.run)

    def parts(self) -> Parts:
        """What :meth:`table` is made of: status, labels and time."""
        uses = ", ".join(f"{n} {use}" for use, n in self.labels.items() if use != "total" and n)
        lines = [("status", self.status), ("labels", f"{self.labels['total']} ({uses})")]
        lines += [("time", duration(self.seconds)), *([("run", str(self.run))] if self.run else [])]
        return [facts(lines)]

    @property
    def ending(self) -> str:
        """What was reached, and what to do next."""
        if self.status == "certified":
            return f"{self.words}\nuse it: {self._simulation()}"
        more = f"equimd learn --resume {self.folder}"
        if self.status == "interrupted":
            return f"interrupted; go on with: {more}"
        asked = self._settings()
        what = f"--max-time {math.ceil(2 * asked.max_time / 60)}m"
        if self.labels["total"] > 0.6 * asked.labels:  # an audit takes what is left, at least
            what += f" --labels {2 * asked.labels}"
        return f"no certificate: {'; '.join(self.missing)}\nwith more time or labels: {more} {what}"

    def _settings(self) -> LearnSettings:
        path = self.folder / task.SETTINGS_FILE
        return LearnSettings.parse(read_config(path), where=str(path))

    def _simulation(self) -> str:
        """The command of a run such as the certificate is for."""
        settings, names = self._settings(), ("temperature", "run_length", "dt", "friction", "charge", "spin")
        # where it is not stated, simulate has the same
        told = {k: v for k in names if (v := getattr(settings, k)) != LearnSettings.model_fields[k].default}
        options = [f"--{'steps' if k == 'run_length' else k} {v:g}" for k, v in told.items()]
        start = cheap.start_file(self.folder) or f"{self.folder / task.STARTS_FILE}@0"
        return " ".join([f"equimd simulate {self.run} {start}", *options])

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd learn --json``."""
        names = ("status", "missing", "certificate", "labels", "rounds", "seconds", "folder", "run")
        return plain({name: getattr(self, name) for name in names})

    def _shown(self) -> Mapping[str, str]:
        found = {"folder": str(self.folder), "status": self.status, "labels": str(self.labels["total"])}
        return found if self.certificate is not None else {**found, "missing": "; ".join(self.missing)}


@takes(FIELDS)
def learn(
    molecule: str | Path | Atoms | None = None,
    *,
    settings: LearnSettings | str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> LearnResult:
    """From a molecule and a reference method to a certified potential; what ``equimd learn`` does.

    Args:
        molecule: a structure file, a name ASE knows, SMILES, or ASE ``Atoms``, a list of them for several conformers.
        settings: an object of settings or a YAML file of them, beneath those given as keywords.
        out: folder to make; by default learn/NAME-300K-001.
        resume: folder of a learn run to go on with, with more time or labels if given.
        overwrite: replace a learn run that ``out`` holds.
        progress: called with :class:`~equimd.progress.Progress`; without it, nothing is shown.

    Raises:
        Interrupted: Ctrl-C, a KeyboardInterrupt; ``equimd.learn(resume=...)`` goes on where it was.
        ConfigError, DataError, RunError: what is wrong with settings, molecule or folder, before anything is written;
            the reference method fails on every frame; or the time does not suffice to train anything.
    """
    if resume is not None:
        if out is not None or molecule is not None or settings is not None:
            raise ConfigError("--resume goes on in its own folder: leave out MOLECULE, settings and --out")
        folder = Path(resume)
    else:
        if settings is not None and not isinstance(settings, LearnSettings):
            settings = LearnSettings.parse(read_config(settings), where=str(settings))
        atoms = None
        if isinstance(molecule, (str, Path)):
            options["molecule"] = str(molecule)
        elif molecule is not None:
            atoms = list(molecule) if isinstance(molecule, (list, tuple)) else [molecule]
            options["molecule"] = atoms[0].get_chemical_formula("hill")
        asked = settings_of(LearnSettings, settings, options)
        folder, options = Path(out) if out is not None else task.default_folder(asked), {}
        task.begin(asked, folder, atoms, overwrite=overwrite)
    return _work(folder, task.reopen(folder, options), progress)


def _work(folder: Path, settings: LearnSettings, progress: Callback | None) -> LearnResult:
    note(f"learn: {folder}")

    def say(text: str) -> None:
        if progress is not None:
            progress(Progress("line", STAGE, 0.0, text))

    try:
        with counted_stages(progress) as told:
            found = task.learn(folder, settings, say=say, progress=told)
    except KeyboardInterrupt:
        result = LearnResult(**vars(task.interrupted(folder)))
        raise Interrupted(result.ending, result) from None
    return LearnResult(**vars(found))
