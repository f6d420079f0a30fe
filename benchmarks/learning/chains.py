"""Trainings on more and more labels, each batch of them chosen in one way with the model of the labels before.

All chains of a seed begin with the same frames, drawn at random. Every training starts anew: from nothing, or in ways
with the cheap stage from a model of frames of the cheap method. What is finished, a training, a choice, the errors of a
model, is kept under what it was made from and serves every chain that needs it; where another process is at it, this
one waits.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks.models import load_model, weights_sha256
from equimd.benchmarks.options import say
from equimd.benchmarks.pieces import fingerprint, piece
from equimd.calculators import LoadedModel, load
from equimd.data import open_dataset
from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.files import locked, sha256_of
from equimd.model.interface import Model
from equimd.run import CHECKPOINT_FILE
from equimd.tasks.evaluate.call import evaluate
from equimd.tasks.generate.call import generate
from equimd.tasks.generate.cheap import EQUILIBRATION, HYDROGEN, INTERVAL, MOST, STEP
from equimd.tasks.label.task import label
from equimd.tasks.learn.cheap import TRAJECTORIES
from equimd.tasks.learn.exploring import informative
from equimd.tasks.train import train
from equimd.uq.laplace import fit_last_layers, fit_posterior
from equimd.uq.predict import predict

N_VAL = 50  # frames of the pool that validate
FIRST, FIRST_SHARE = 25, 0.25  # frames drawn at random, and their model's share of the time of a training
PRETRAINING = 2.0  # times the time of a training
MEMBERS, NEXT_MEMBER = 3, 1000  # of an ensemble, whose seeds lie so far apart
CHEAP, CHEAP_KELVIN = "gfn1", (300.0, 600.0)
SAMPLING = {
    "interval": INTERVAL,
    "torsion_interval": INTERVAL,
    "time_step": STEP,
    "equilibration": EQUILIBRATION,
    "hydrogen_mass": HYDROGEN,
}
METRICS = {"forces_mae_meV_per_A": "meV/A", "energy_mae_meV": "meV"}


def _at_random(models: Sequence[Model], known: Frames, rest: Frames, count: int) -> np.ndarray:
    return np.arange(count)


def _by_information(models: Sequence[Model], known: Frames, rest: Frames, count: int) -> np.ndarray:
    """Greedy log det of the exact posterior over energy and force rows, as ``equimd learn`` chooses."""
    fitted = fit_posterior(models[0], ArrayDataset(known), targets="both")
    energy, forces = fitted.sigma_noise.tolist()
    return np.array(informative(models[0], rest, fitted.posterior_covariance.detach(), (energy, forces), count))


def _by_sigma(models: Sequence[Model], known: Frames, rest: Frames, count: int) -> np.ndarray:
    """The largest force sigma of an atom, by the same posterior."""
    found = predict(models[0], fit_last_layers(models[0], ArrayDataset(known))[0], ArrayDataset(rest))
    return _largest(found.per_frame(np.trace(found.force_covariance, axis1=1, axis2=2))[0], count)


def _by_ensemble(models: Sequence[Model], known: Frames, rest: Frames, count: int) -> np.ndarray:
    """The largest spread of the force on an atom over the members."""
    forces = np.stack([LoadedModel(model).predict_frames(rest)[1] for model in models])  # type: ignore[arg-type]
    return _largest(forces.var(0, ddof=1).sum(-1).max(-1), count)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-values, kind="stable")[:count]


@dataclass(frozen=True)
class Way:
    """A way to few labels.

    Attributes:
        label: in tables and plots. colour: of its curve; dashed where something is learned from the cheap method.
        choose: rows of so many further frames, of ``rest`` in random order; given the models of those known.
        models: trained for a choice; none for one that needs none.
        pretrained: on frames of the cheap method. difference: to the cheap method is what is learned.
    """

    label: str
    colour: str
    choose: Callable[[Sequence[Model], Frames, Frames, int], np.ndarray]
    models: int = 1
    pretrained: bool = False
    difference: bool = False


BASE = "random"
WAYS = {
    BASE: Way("at random", "tab:gray", _at_random, models=0),
    "logdet": Way("log det", "tab:blue", _by_information),
    "sigma": Way("largest sigma", "tab:green", _by_sigma),
    f"ensemble-{MEMBERS}": Way(f"ensemble of {MEMBERS}", "tab:orange", _by_ensemble, models=MEMBERS),
    "random-cheap": Way("at random, cheap stage", "tab:gray", _at_random, models=0, pretrained=True),
    "logdet-cheap": Way("log det, cheap stage", "tab:blue", _by_information, pretrained=True),
    "logdet-difference": Way("log det, difference to the cheap method", "tab:purple", _by_information, difference=True),
}


@dataclass(frozen=True)
class Bench:
    """What the chains of a suite share.

    Attributes:
        pool, validation: labelled frames to choose from, and of every training's validation; ``tests`` by name.
        training: settings of a training beside its time, ``budget_s`` seconds.
        cheap_frames: of ``molecule`` by the cheap method, for the cheap stage, with this ``sampling``.
        labels: what the frames are labelled by.
    """

    pool: Frames
    validation: Frames
    tests: Mapping[str, Frames]
    work: Path
    budget_s: float
    training: Mapping[str, Any]
    first: int = FIRST
    molecule: str = "ethanol"
    cheap_frames: int = MOST
    sampling: Mapping[str, Any] = field(default_factory=SAMPLING.copy)
    labels: str = "reference"

    def chain(self, name: str, seed: int, sizes: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Of each size the errors on the tests, by name and metric, in the order of the trainings."""
        way, bench = WAYS[name], self
        if way.difference:
            bench = self.less_cheap()
        init = self.pretrained(seed) if way.pretrained else None
        order = np.random.default_rng([seed, 11]).permutation(len(self.pool)).tolist()
        rows = order[: self.first]
        for size in sizes:
            runs = [bench.trained(rows, seed + k * NEXT_MEMBER, init) for k in range(way.models)]
            known = set(rows)
            rest = [row for row in order if row not in known]
            rows = rows + bench.chosen(name, runs, rows, rest, size - len(rows))
            yield size, bench.errors(bench.trained(rows, seed, init))

    def trained(self, rows: Sequence[int], seed: int, init: Path | None) -> Path:
        """The run folder of a model of these frames of the pool, from the model of a run or from nothing."""
        frames, share = self.pool.take(rows), FIRST_SHARE if len(rows) == self.first else 1.0
        settings = {**self.training, "seed": seed, "max_time": share * self.budget_s}
        about = {**settings, "frames": frames.content_hashes(), "labels": self.labels}
        if init is not None:
            settings["init"], about["init"] = str(init), weights_sha256(init)
        sets = {"data": ArrayDataset(frames), "val_data": ArrayDataset(self.validation)}
        return self._finished(f"{len(rows)}-seed{seed}-{fingerprint(about)}", {**settings, **sets})

    def pretrained(self, seed: int) -> Path:
        """The run folder of a model of cheap frames, made at the same temperatures and intervals as ``learn`` does."""
        folder = self.work / f"{CHEAP}-{self.cheap_frames}"
        paths = [folder / f"{kelvin:g}K.h5" for kelvin in CHEAP_KELVIN]
        with locked(folder, wait=True):
            for number, (path, kelvin) in enumerate(zip(paths, CHEAP_KELVIN, strict=True)):
                if not path.exists():
                    say(f"learning: {CHEAP} frames at {kelvin:g} K")
                    generate(
                        self.molecule,
                        path,
                        temperature=kelvin,
                        frames=self.cheap_frames // len(paths),
                        trajectories=TRAJECTORIES,
                        calculator=CHEAP,
                        seed=number,
                        **self.sampling,
                    )
        settings = {**self.training, "seed": seed, "max_time": PRETRAINING * self.budget_s, "splits": (0.9, 0.1, 0.0)}
        about = {**settings, "frames": self.cheap_frames}
        return self._finished(f"{CHEAP}-seed{seed}-{fingerprint(about)}", {**settings, "data": list(map(str, paths))})

    def _finished(self, name: str, given: dict[str, Any]) -> Path:
        """The folder of a run that has ended: trained now, gone on with, or as it is there."""
        folder = self.work / "runs" / name
        run, ended = folder / "run", folder / "ended"
        with locked(folder, wait=True):
            if not ended.exists():
                say(f"learning: training {name}")
                if (run / CHECKPOINT_FILE).is_file():
                    train(resume=run)
                else:
                    shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint
                    train(out=run, **given)
                ended.touch()
        return run

    def chosen(
        self, name: str, runs: Sequence[Path], known: Sequence[int], rest: Sequence[int], count: int
    ) -> list[int]:
        """So many rows of the pool out of ``rest``, by a way and its models."""
        settings = {"models": [weights_sha256(run) for run in runs], "known": known, "rest": rest, "count": count}

        def make() -> dict[str, Any]:
            models, pool = [load_model(run) for run in runs], self.pool
            found = WAYS[name].choose(models, pool.take(known), pool.take(rest), count)
            return {"rows": [rest[k] for k in found]}

        return list(piece(self.work / "chosen", f"{name}-{len(known)}", settings, make)["rows"])

    def errors(self, run: Path) -> dict[str, dict[str, float]]:
        """Errors of a run on the tests, by name and metric."""
        hashes = {name: sha256_of(frames.content_hashes()) for name, frames in self.tests.items()}

        def make() -> dict[str, Any]:
            model = load(run)
            found = {name: evaluate(model, ArrayDataset(frames)).summary for name, frames in self.tests.items()}
            return {"errors": {name: {m: summary[m] for m in METRICS} for name, summary in found.items()}}

        settings = {"model": weights_sha256(run), "labels": self.labels, "tests": hashes}
        return dict(piece(self.work / "errors", run.parent.name, settings, make)["errors"])

    def less_cheap(self) -> Bench:
        """The same frames, labelled by the difference of their labels to those of the cheap method."""
        tests = {name: self._less_cheap(frames) for name, frames in self.tests.items()}
        pool, validation = self._less_cheap(self.pool), self._less_cheap(self.validation)
        return replace(self, pool=pool, validation=validation, tests=tests, labels=f"reference - {CHEAP}")

    def _less_cheap(self, frames: Frames) -> Frames:
        folder = self.work / f"{CHEAP}-labels"
        path = folder / f"{sha256_of(frames.content_hashes())[:10]}.h5"
        with locked(folder, wait=True):
            if not path.exists():
                say(f"learning: {CHEAP} labels of {len(frames)} frames")
                label(ArrayDataset(frames), path, calculator=CHEAP)
        cheap = open_dataset([path]).frames()
        return replace(frames, energy=frames.energy - cheap.energy, forces=frames.forces - cheap.forces)
