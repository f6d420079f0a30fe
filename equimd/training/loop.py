"""The training loop: epochs of steps, validation of the averaged weights, checkpoints, an end that can be resumed.

Everything that decides the weights depends on the seed, the data and the step alone, so that a training with an epoch
budget, stopped at any moment and resumed, ends with the same bits as one that ran through (same machine and number of
threads). A time budget counts the seconds of all its sessions, and is as reproducible as the clock.

Several processes run the same loop, each on its part of every batch. What they decide alike follows from sums over all
of them; on the time and on signals they agree after each step. The first one alone prints and writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.errors import EquimdError
from equimd.interrupts import stop_signals
from equimd.machine import choose_device
from equimd.progress import Callback, duration
from equimd.run import LAST_FILE, MODEL_FILE, Run, save_model
from equimd.training.batching import Batching, sorted_batches
from equimd.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from equimd.training.compiling import pays_to_compile
from equimd.training.loader import FrameSource, Loader
from equimd.training.metrics import MetricsFile, RunningErrors, Unit, validate
from equimd.training.pace import Pace
from equimd.training.parallel import ALONE, Processes
from equimd.training.progress import EpochProgress, EventWriter
from equimd.training.references import shift_references
from equimd.training.schedule import Schedule, epoch_budget, validation_interval
from equimd.training.setup import Setup, set_threads

if TYPE_CHECKING:
    from equimd.model.painn.potential import Potential

CHECKPOINT_SHARE = 0.01  # of the time, at most


class Trainer:
    """One training. ``fit`` runs it to its end, or to an interruption, and says which.

    Args:
        setup: frames and model.
        run: the run folder that takes checkpoints, weights and metrics.
        resume: go on from the run's checkpoint.
        stop_at: when to stop as Ctrl-C does, seconds since 1970.
        processes: that share the training, each with a trainer of its own on the same frames and run.
    """

    def __init__(
        self,
        setup: Setup,
        run: Run,
        *,
        resume: bool = False,
        progress: Callback | None = None,
        stop_at: float | None = None,
        processes: Processes = ALONE,
    ) -> None:
        from equimd.training.step import TrainStep

        self.setup, self.run, self.config, self.processes = setup, run, setup.config, processes
        t = self.config.training
        self.device = processes.device(choose_device(t.device))
        self.model = setup.model.to(self.device).train()
        self.averaged = _copy(setup.model).to(self.device).eval()
        cutoff, dtype = self.model.config.cutoff, self.model.dtype
        self.train_source = FrameSource(setup.train, None, cutoff, dtype, mean_weight=setup.mean_weight)
        self.loader = Loader(self.train_source, t.num_workers)
        self.val_loader = Loader(FrameSource(setup.val, None, cutoff, dtype, mean_weight=setup.mean_weight))
        self.step = TrainStep(
            self.model,
            energy_weight=t.energy_weight,
            forces_weight=t.forces_weight,
            loss=t.loss,
            energy_loss_per_atom=t.energy_loss_per_atom,
            weight_decay=t.weight_decay,
            grad_clip=t.grad_clip,
            ema_decay=t.ema_decay,
            compile=pays_to_compile(self.config, self.train_source.sizes, setup.periodic),
            batch_size=min(t.batch_size_train, len(self.train_source)),
            max_atoms=t.max_atoms_per_batch,
            sizes=np.unique(self.train_source.sizes).tolist(),
            processes=processes,
        )
        self.told = EpochProgress(progress if processes.first else None, Unit.of(t.display_unit))
        self.progress = Progress()
        self.running = RunningErrors()
        self.best: dict[str, Tensor] | None = None
        self.batching = Batching.of(t, self.train_source.sizes, setup.periodic)
        self.steps_per_epoch = len(self.batching.epoch(0))
        self.val_interval = validation_interval(self.config.training, len(setup.train), len(setup.val))
        if resume:
            self._restore()
        self.pace = Pace(self.progress)
        self.schedule = Schedule(t, self.steps_per_epoch, self.progress.schedule)
        self.metrics: MetricsFile | None = None
        self.events: EventWriter | None = None
        if processes.first:
            self.metrics = MetricsFile(run.path / "metrics.csv", keep=self.progress.rows)
            self.events = EventWriter(run.path / "tensorboard", self.progress.step) if t.tensorboard else None
        self._order: list[np.ndarray] = []  # the batches of the epoch under way
        self._signalled: Callable[[], bool] = lambda: False  # whether this process is asked to stop
        self._asked = False  # by :meth:`stop`
        self.stop_at = stop_at
        self._stopping = False  # whether any of them is
        self._clock = self.progress.elapsed  # seconds of training by the first one's clock
        self._started = time.monotonic()
        self._saved = time.monotonic()
        self._save_cost = 0.0

    # state

    def _restore(self) -> None:
        found = load_checkpoint(self.run.checkpoint, self.setup.identity)
        self.progress = found.progress
        self.model.load_state_dict(found.part("model", self.model.state_dict()))
        self.step.load_state_dict(found.part("step", self.step.state_dict()))
        self.best = found.part("best", self.model.state_dict()) if found.has_best else None
        self.running.totals = found.totals

    def elapsed(self) -> float:
        """Seconds of training, over all sessions."""
        return self.progress.elapsed + time.monotonic() - self._started

    def save(self) -> None:
        """Checkpoint, and the best weights so far as a model of their own."""
        if self.metrics is None:
            return
        began = time.monotonic()
        self.progress.elapsed, self._started = self.elapsed(), began
        self.progress.rows, self.progress.schedule = self.metrics.rows, self.schedule.state
        save_checkpoint(
            self.run.checkpoint,
            self.progress,
            model=self.model.state_dict(),
            step=self.step.state_dict(),
            best=self.best,
            totals=self.running.totals,
            identity=self.setup.identity,
        )
        if self.best is not None:
            save_model(self.run.path / MODEL_FILE, self.model.config, self.best, epoch=self.progress.best_epoch)
        self._saved = time.monotonic()
        self._save_cost = self._saved - began

    def _save_if_due(self) -> None:
        interval = self.config.training.checkpoint_interval
        wait = max(interval, min(self._save_cost / CHECKPOINT_SHARE, 10 * interval))  # slow disks: rarer, not never
        if time.monotonic() - self._saved >= wait:
            self.save()

    # the loop

    def fit(self) -> str:
        """Train until the budget ends, early stopping says so, or someone interrupts.

        Returns:
            ``completed``, ``stopped early`` or ``interrupted``; the run folder holds the weights in each case.

        Raises:
            EquimdError: the loss is not finite any more.
        """
        restore_threads = set_threads(self.config, self.setup.train)
        try:
            with stop_signals() as self._signalled:
                self.processes.barrier()  # nobody's reading of files counts as training
                self._started = time.monotonic()
                if not self.run.checkpoint.exists():
                    self.save()  # from here on, any kill leaves something to resume
                ended = self._epochs()
            if ended != "interrupted":
                self._final_validation()
            self.save()
            if self.processes.first:
                if ended != "interrupted":
                    self._finish()
                self.run.update_info({"status": ended, **self.summary()})
            self.processes.barrier()  # one that ended before all is written might have the others killed
        finally:
            self.told.end()
            restore_threads()
            if self.events:
                self.events.close()
        return ended

    def stop(self) -> None:
        """End after the step under way, as Ctrl-C does; the training can be gone on with."""
        self._asked = True

    @property
    def time_is_up(self) -> bool:
        """Whether ``stop_at`` has come."""
        return self.stop_at is not None and time.time() >= self.stop_at

    def _epochs(self) -> str:
        t, p = self.config.training, self.progress
        budget = epoch_budget(t)
        self._agree()
        while True:
            if self._stopped_early():
                return "stopped early"
            if (budget is not None and p.epoch >= budget) or self.out_of_time():
                return "completed"
            self._order = order = self.batching.epoch(p.epoch)
            for batch in self.pace.waiting(self.loader(self.processes.parts(order[p.batch :]))):
                self._one_step(batch.to(self.device))
                self._agree()
                if self._stopping or self.out_of_time():
                    break
                self._save_if_due()
            if p.batch == len(order):
                self._end_epoch(last=budget is not None and p.epoch + 1 >= budget)
                self._agree()
            if self._stopping:
                return "interrupted"

    def _agree(self) -> None:
        """Take the time from the first process, and whether to stop from any: the same answers in each."""
        asked = self._signalled() or self._asked or (self.processes.first and self.time_is_up)
        mine = [self.elapsed() if self.processes.first else 0.0, float(asked)]
        clock, stops = self.processes.sum_(torch.tensor(mine, dtype=torch.float64)).tolist()
        self._clock, self._stopping = clock, stops > 0

    def _one_step(self, batch: Batch) -> None:
        p = self.progress
        shapes, began = self.step.shapes_compiled, time.monotonic()
        sums = self.step(batch, self.schedule.lr(p.place, self._clock))
        self.running.add(sums)
        if self.step.shapes_compiled > shapes:
            self._leave_out(time.monotonic() - began)
        else:
            atoms = int(self.train_source.sizes[self._order[p.batch]].sum())
            self.pace.stepped(atoms, time.monotonic() - began)
        p.step += 1
        p.place += self.steps_per_epoch / len(self._order)
        p.batch += 1
        used, elapsed = self.schedule.used(p.place, self.elapsed()), self.elapsed()
        if self.told.due(used):
            errors = self.running.errors(self.config.training)
            self.told.update(self._epoch_name(), used, elapsed, errors, p.last_row, self.pace.atoms_per_second)

    def _leave_out(self, seconds: float) -> None:
        """A step that compiled its graph does not count as time of training: how long that takes depends on what else
        the machine does and on what was compiled before, and what is learned in ``max_time`` should not."""
        self._started += seconds
        self.progress.compiling += seconds
        told = f"{duration(seconds)}, not counted in the time of training"
        self.told.line("compiled the training step", told, values={"compiling_seconds": seconds})

    def _end_epoch(self, *, last: bool = False) -> None:
        p = self.progress
        row = self._row()
        p.epoch += 1
        p.batch = 0
        if p.epoch % self.val_interval == 0 or last:
            row.update(self._validate())
        self._record(row)
        self.running = RunningErrors()

    def _row(self) -> dict[str, float]:
        p = self.progress
        found = self.running.errors(self.config.training)
        loss, norm = found.pop("loss"), found.pop("grad_norm")
        if not math.isfinite(loss):
            raise EquimdError(
                f"the training diverged: its loss is {loss} in epoch {p.epoch + 1}",
                where=str(self.run.path),
                hint="a smaller --lr or --grad-clip; `equimd data inspect` finds broken labels",
            )
        rate = self.schedule.lr(max(0.0, p.place - 1), self.elapsed())
        head = {
            "epoch": p.epoch + 1,
            "step": p.step,
            "time_s": self.elapsed(),
            "lr": rate,
            "loss": loss,
            "grad_norm": norm,
        }
        return {**head, **{f"train_{k}": v for k, v in found.items()}}

    def _record(self, row: dict[str, float]) -> None:
        note = " | best so far" if "val_loss" in row and self.progress.best_epoch == self.progress.epoch else ""
        self.progress.last_row = {k: v for k, v in row.items() if math.isfinite(v)}
        if self.metrics is None:
            return
        self.metrics.append(row)
        self.told.epoch(
            self._epoch_name(int(row["epoch"])), row, self.schedule.used(self.progress.place, self.elapsed()), note
        )
        if self.events:
            self.events.write(row)

    def _epoch_name(self, epoch: int | None = None) -> str:
        budget = epoch_budget(self.config.training)
        number = self.progress.epoch + 1 if epoch is None else epoch
        return f"{number}/{budget}" if budget is not None else str(number)

    # validation and the end

    def _validate(self) -> dict[str, float]:
        """Errors of the averaged weights on all validation frames; remembers the best."""
        p, t = self.progress, self.config.training
        weights = self.step.ema_weights()
        self.averaged.load_state_dict(weights)
        order = sorted_batches(self.val_loader.source.sizes, t.batch_size_inference, t.max_atoms_per_batch)
        own = self.val_loader(order[self.processes.rank :: self.processes.size])
        found = validate(self.averaged, (b.to(self.device) for b in own), t, self.processes)
        loss = found["loss"]
        self.schedule.validated(loss, self.val_interval)
        if p.best is None or loss < p.best:
            p.best, p.best_epoch = loss, p.epoch
            self.best = {k: v.detach().clone() for k, v in self.averaged.state_dict().items()}
        p.last_validated = p.step
        return {f"val_{k}": v for k, v in found.items()}

    def _stopped_early(self) -> bool:
        t, p = self.config.training, self.progress
        if t.early_stopping_patience is None or p.epoch < max(1, t.early_stopping_min_epochs):
            return False
        return p.best is not None and p.epoch - p.best_epoch >= t.early_stopping_patience

    def out_of_time(self) -> bool:
        """Whether the time to train for is over, by the clock of the first process."""
        limit = self.config.training.max_time
        return limit is not None and self._clock >= limit

    def _final_validation(self) -> None:
        """The last weights are measured too, where the budget ended between two validations."""
        p = self.progress
        if p.last_validated == p.step:
            return
        if self.running.totals[-1] > 0:
            row = self._row()
            p.epoch, p.batch = p.epoch + 1, 0
        else:
            row = {
                **{k: v for k, v in p.last_row.items() if not k.startswith("val_")},
                "epoch": p.epoch,
                "step": p.step,
            }
            row = {"lr": 0.0, **row, "time_s": self.elapsed()}
        row.update(self._validate())
        self._record(row)
        self.running = RunningErrors()

    def _finish(self) -> None:
        """Write the last and the best weights; with forces alone, fit the energies' constant first."""
        last = dict(self.step.ema_weights())
        best = self.best or last
        for name, weights in ((LAST_FILE, last), (MODEL_FILE, best)):
            self.averaged.load_state_dict(weights)
            if not self.config.training.energy_weight:
                t = self.config.training
                shift_references(self.averaged, self.setup.train, t.batch_size_inference, t.max_atoms_per_batch)
            digest = save_model(
                self.run.path / name, self.model.config, self.averaged.state_dict(), epoch=self.progress.best_epoch
            )
        self.run.update_info({"model_sha256": digest})

    def summary(self) -> dict[str, Any]:
        """Where the training stands, for run.json."""
        p = self.progress
        return {
            "epochs": p.epoch,
            "steps": p.step,
            "training_seconds": round(self.elapsed(), 1),
            "compiling_seconds": round(p.compiling, 1),
            **self.pace.summary(),
            "best_epoch": p.best_epoch,
        }


def _copy(model: Potential) -> Potential:
    """The same model with tensors of its own."""
    from equimd.model.build import build_model

    twin = build_model(model.config)
    twin.load_state_dict(model.state_dict())
    return twin
