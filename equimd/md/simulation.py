"""The loop: propose, judge, commit, record; and the restart file from which it goes on as if it had never stopped.

Everything that decides the future is in ``restart.safetensors``, replaced atomically right after each block of frames,
so that a kill at any moment loses at most the last block. Random numbers need no state (:mod:`equimd.md.noise`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.data.system import System
from equimd.errors import ConfigError, RunError
from equimd.files import load_tensors, save_tensors, understood
from equimd.guard.flags import SuspectRecorder, write_suspects
from equimd.guard.judge import Decision, Event, Judge
from equimd.md.integrators import ForceFunction, Integrator, evaluate
from equimd.md.state import State, initial_state, kinetic_energy, temperature
from equimd.md.trajectory import Frame, TrajectoryWriter, trajectory_path
from equimd.units import KB

RESTART_FILE, SUSPECTS_FILE = "restart.safetensors", "flagged.extxyz"
KIND = "md-restart"
COUNTS = ("count", "exact_count")  # of a score that now and then computes its exact value
CHECK_EVERY = 10  # steps between two looks at the conserved quantity; also at what is saved, and at the last step
#: An atom's share of the change of the conserved quantity that halts a run, in k T (of 300 K at least), and in k T a ps
#: where that is more: the worst models drift by hundredths of it.
LOST = 100.0
LOST_PER_PS = 1.0
UNITS = {"potential_energy": "eV", "kinetic_energy": "eV", "conserved": "eV", "temperature": "K"}


@dataclass(frozen=True)
class Output:
    """What to write and where.

    Attributes:
        folder: exists already.
        save_every: steps between saved frames.
        sigma_every: every so many of them hold the exact score of each atom, also where the judge did not need it, if
            its score has one; 0 for none.
        info: written with every suspect frame, such as charge and spin, for whoever labels them.
        flush_seconds: what is buffered is written at least so often, however slow the steps are.
    """

    folder: Path
    save_every: int = 10
    sigma_every: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)
    flush_seconds: float = 60.0


class Simulation:
    """R replicas under one integrator and one judge. :meth:`start` and :meth:`resume` make one, :meth:`run` moves it.

    The judge is that of the forces, if they have one; none judges nothing.

    Attributes:
        state: the last good state of every replica. Steps below 0 equilibrate: they are judged, not recorded.
        suspects: what the judge refused or flagged.
        decision: what the judge said of the last step of ``moved``, the replicas that were active then.
    """

    def __init__(
        self,
        system: System,
        integrator: Integrator,
        forces: ForceFunction,
        state: State,
        *,
        dof: int,
        judge: Judge | None = None,
        output: Output | None = None,
        resume_step: int | None = None,
    ) -> None:
        self.system, self.integrator, self.forces, self.state = system, integrator, forces, state
        self.dof, self.judge, self.output = dof, _judge(forces, judge), output
        self.suspects = SuspectRecorder()
        self.decision, self.moved = Decision(), state.replicas
        self._saved, self._until = time.monotonic(), -1
        self.reference = integrator.conserved(system, state)  # of every replica, at step 0 or where it begins
        self.writers: list[TrajectoryWriter] = []
        self.score_name = None if self.judge.threshold is None else self.judge.name.replace(" ", "_")
        if output is not None:
            units = {**UNITS, **({self.score_name: self.judge.unit} if self.score_name else {})}
            self.writers = [
                TrajectoryWriter(
                    trajectory_path(output.folder, replica, len(state)), system, units=units, resume_step=resume_step
                )
                for replica in state.replicas
            ]

    @classmethod
    def start(
        cls,
        system: System,
        integrator: Integrator,
        forces: ForceFunction,
        positions: Tensor,
        velocities: Tensor,
        *,
        dof: int,
        replicas: tuple[int, ...] | None = None,
        first_step: int = 0,
        judge: Judge | None = None,
        output: Output | None = None,
    ) -> Simulation:
        """Begin at ``first_step`` with positions and velocities (R, n, 3). This frame is judged, too, and saved.

        Raises:
            DataError: positions, velocities, energies or forces that are not finite; a trajectory in the folder.
            MachineError: it cannot be written.
        """
        replicas = tuple(range(len(positions))) if replicas is None else replicas
        with torch.no_grad():
            energy, force, extras = evaluate(forces, positions.to(torch.float64))
            first = initial_state(positions, system.free(velocities), energy, force, replicas)
            first = integrator.begin(system, replace(first, extras=extras, step=first_step))
            simulation = cls(system, integrator, forces, first, dof=dof, judge=judge, output=output)
            decision = simulation.decision = simulation._judged(first)
            simulation.state = first.commit(first, decision.accept(len(first)))
            simulation._record(first, decision)
            simulation.save()  # from here on there is something to go on with
        return simulation

    @classmethod
    def resume(
        cls,
        system: System,
        integrator: Integrator,
        forces: ForceFunction,
        output: Output,
        *,
        dof: int,
        judge: Judge | None = None,
    ) -> Simulation:
        """Go on from the restart file in ``output.folder``.

        Raises:
            RunError: no restart file, or one of another system or with other settings of the integrator or the score.
        """
        with understood(output.folder / RESTART_FILE, RuntimeError, hint="use a copy, or a new simulation"):
            return cls._resume(system, integrator, forces, output, dof=dof, judge=judge)

    @classmethod
    def _resume(
        cls,
        system: System,
        integrator: Integrator,
        forces: ForceFunction,
        output: Output,
        *,
        dof: int,
        judge: Judge | None,
    ) -> Simulation:
        path = output.folder / RESTART_FILE
        tensors, meta = load_tensors(path, KIND)
        now = _settings(integrator, _judge(forces, judge), output)
        then = meta["settings"]
        differing = [k for k in {**then, **now} if then.get(k) != now.get(k)]
        if differing:
            k = differing[0]
            what = f"the run was made with {k} = {then.get(k)}, not {now.get(k)}"
            raise RunError(what, where=str(path), hint="the settings of the run, or start a new one")
        if not torch.equal(tensors["numbers"], system.numbers.cpu()):
            raise RunError("the run is of another molecule", where=str(path))
        device = system.masses.device
        part = _unflatten({k: v.to(device) for k, v in tensors.items()})
        stored = part["state"]
        state = State(
            stored["positions"],
            stored["velocities"],
            stored["forces"],
            stored["energy"],
            replicas=tuple(meta["replicas"]),
            active=tuple(meta["active"]),
            step=int(meta["step"]),
            bath=part.get("bath", {}),
        )
        shape = (len(state.replicas), system.n_atoms, 3)
        if len(state.active) != shape[0] or any(
            v.shape != shape or not v.is_floating_point() for v in (state.positions, state.velocities, state.forces)
        ):
            raise ValueError("arrays of other shapes")
        simulation = cls(system, integrator, forces, state, dof=dof, judge=judge, output=output, resume_step=state.step)
        if [w.written for w in simulation.writers] != meta["frames"]:
            raise RunError("the trajectory has fewer frames than the restart file says", where=str(output.folder))
        simulation.suspects.load({k: v.cpu() for k, v in part.get("suspects", {}).items()}, meta["suspects"])
        simulation.reference = part.get("conserved", {"start": simulation.reference})["start"]
        for name, value in zip(COUNTS, meta.get("scored", ()), strict=False):
            if hasattr(simulation.judge.score, name):
                setattr(simulation.judge.score, name, int(value))
        if "forces" in part and hasattr(forces, "load"):
            forces.load(part["forces"])
        return simulation

    def run(
        self,
        until: int,
        *,
        observer: Callable[[Simulation], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Move until step ``until``, until every replica has halted, or until ``stop()`` says so; then save everything.

        Args:
            observer: called after every step.
            stop: asked before every step, such as whether Ctrl-C was pressed: between steps a run can be saved exactly.
        """
        self._until = until
        with torch.no_grad():
            while self.state.step < until and any(self.state.active) and not (stop is not None and stop()):
                self.advance()
                if observer is not None:
                    observer(self)
        self.save()

    def advance(self) -> Decision:
        """One step of the active replicas."""
        moving = self.state.moving()
        proposal = self.integrator.propose(self.system, moving, self.forces)
        held = self.system.fixed
        if held is not None and not torch.equal(proposal.positions[:, held], moving.positions[:, held]):
            what = f"{self.integrator.name} moves atoms that are held fixed"
            raise ConfigError(what, hint="an integrator that uses `system.acceleration`")
        decision = self._judged(proposal)
        self.decision, self.moved = decision, proposal.replicas
        self.state = self.state.commit(proposal, decision.accept(len(proposal)))
        if self.output is not None and proposal.step % self.output.save_every == 0:
            self._record(proposal, decision)
            if any(w.due for w in self.writers) or time.monotonic() - self._saved > self.output.flush_seconds:
                self.save()
        return decision

    def _judged(self, proposal: State) -> Decision:
        decision = self.judge(proposal.positions, proposal.energy, proposal.forces, proposal.extras)
        saved = self.output is not None and proposal.step % self.output.save_every == 0
        if saved or proposal.step % CHECK_EVERY == 0 or proposal.step == self._until:
            decision = self._conserving(proposal, decision)
        if decision.events:
            self.suspects.update(decision, proposal.positions, proposal.step, proposal.replicas)
        return decision

    def _conserving(self, proposal: State, decision: Decision) -> Decision:
        """Also halts replicas whose conserved quantity or temperature is lost: no step after that means anything."""
        value = self.integrator.conserved(self.system, proposal)
        rows = self.state.rows
        if proposal.step == 0:  # equilibration ends, and another quantity is conserved
            self.reference = value if rows is None else self.reference.index_copy(0, rows, value)
        change = value - (self.reference if rows is None else self.reference[rows])
        kelvin = max(300.0, getattr(self.integrator, "temperature", 0.0))
        share = max(LOST, LOST_PER_PS * 1e-3 * abs(proposal.step * self.integrator.dt)) * KB * kelvin
        limit, heat = share * self.system.n_atoms, kinetic_energy(self.system, proposal.velocities)
        well = (change.abs() <= limit) & torch.isfinite(heat)
        if bool(well.all()):
            return decision
        halted = {e.row for e in decision.halts}
        lost = []
        for row in (~well).nonzero().flatten().tolist():
            far = float(change[row])
            code, reason = "not-finite", "the conserved quantity or the temperature is not finite"
            if math.isfinite(far) and bool(torch.isfinite(heat[row])):
                code, reason = "drift", f"the conserved quantity has changed by {far:.3g} eV (limit {limit:.3g} eV)"
            if row not in halted:
                lost.append(Event(row, "halt", code, reason, abs(far), limit, ()))
        kept = [e for e in decision.events if e.row not in {h.row for h in lost}]
        return replace(decision, events=tuple(sorted([*kept, *lost], key=lambda e: e.row)))

    def _record(self, judged: State, decision: Decision) -> None:
        """Buffer a frame of each replica of a state that was accepted."""
        if self.output is None or judged.step < 0:
            return
        decision = self._with_sigmas(judged, decision, self.output)
        kinetic = kinetic_energy(self.system, judged.velocities).cpu().numpy()
        heat = temperature(self.system, judged.velocities, self.dof).cpu().numpy()
        conserved = self.integrator.conserved(self.system, judged).cpu().numpy()
        arrays = [t.cpu().numpy() for t in (judged.positions, judged.velocities, judged.forces, judged.energy)]
        flagged = {e.row for e in decision.events}
        halted = {e.row for e in decision.halts}
        for row, replica in enumerate(judged.replicas):
            if row in halted:
                continue
            observables = {
                "potential_energy": float(arrays[3][row]),
                "kinetic_energy": float(kinetic[row]),
                "conserved": float(conserved[row]),
                "temperature": float(heat[row]),
            }
            atoms = {}
            if self.score_name and decision.scores is not None:
                observables |= {self.score_name: float(decision.scores[row]), "flagged": float(row in flagged)}
            if self.score_name:
                per_atom = None if decision.atom_scores is None else decision.atom_scores[row].cpu().numpy()
                atoms[self.score_name] = np.full(len(self.system.numbers), np.nan) if per_atom is None else per_atom
            positions, velocities, forces = (a[row].copy() for a in arrays[:3])
            moment = judged.step * self.integrator.dt
            frame = Frame(judged.step, moment, positions, velocities, forces, observables, atoms)
            self.writers[self.state.replicas.index(replica)].append(frame)

    def _with_sigmas(self, judged: State, decision: Decision, output: Output) -> Decision:
        """The decision with exact scores of frames that are saved with them and whose score is the screen's alone."""
        exact = getattr(self.judge.score, "exact", None)
        due = output.sigma_every and judged.step % (output.save_every * output.sigma_every) == 0
        if not due or exact is None or decision.scores is None:
            return decision
        x, scores, atoms = judged.positions, decision.scores.clone(), decision.atom_scores
        atoms = x.new_full(x.shape[:2], torch.nan) if atoms is None else atoms.clone()
        halted = {e.row for e in decision.halts}
        rows = [k for k, lacks in enumerate(torch.isnan(atoms).any(1).tolist()) if lacks and k not in halted]
        if rows:
            atoms[rows] = exact(x[rows])
            scores[rows] = atoms[rows].amax(-1).to(scores)
        return replace(decision, scores=scores, atom_scores=atoms)

    def save(self) -> None:
        """Write the frames, the suspects and the restart file; does nothing without an output folder.

        Raises:
            MachineError: the disk is full; what was written before is intact.
        """
        if self.output is None:
            return
        for writer in self.writers:
            writer.flush()
        if self.suspects.frames():
            write_suspects(self.output.folder / SUSPECTS_FILE, self.system, self.suspects.frames(), self.output.info)
        # last, so that it never points behind frames that are not on disk
        state, (suspects, suspects_meta) = self.state, self.suspects.dump()
        tensors = {"numbers": self.system.numbers}
        for name in ("positions", "velocities", "forces", "energy"):
            tensors[f"state/{name}"] = getattr(state, name)
        more: dict[str, dict[str, Tensor]] = {"bath": state.bath, "suspects": suspects}
        more["conserved"] = {"start": self.reference}
        if hasattr(self.forces, "arrays"):
            more["forces"] = self.forces.arrays()
        tensors |= {f"{group}/{name}": value for group, values in more.items() for name, value in values.items()}
        meta: dict[str, Any] = {
            "step": state.step,
            "replicas": list(state.replicas),
            "active": list(state.active),
            "settings": _settings(self.integrator, self.judge, self.output),
            "frames": [w.written for w in self.writers],
            "suspects": suspects_meta,
            "scored": [getattr(self.judge.score, name, 0) for name in COUNTS],
            "numpy": np.__version__,
        }
        save_tensors(self.output.folder / RESTART_FILE, tensors, meta, KIND)
        self._saved = time.monotonic()


def _judge(forces: ForceFunction, judge: Judge | None) -> Judge:
    """That of the forces, else the one given."""
    own: Judge | None = getattr(forces, "judge", None)
    if own is not None and judge is not None and own is not judge:
        raise ConfigError("the forces were made for another judge", hint="give the judge to the forces alone")
    return own or judge or Judge()


def _settings(integrator: Integrator, judge: Judge, output: Output) -> dict[str, Any]:
    """What must be the same for a run to go on as it would have."""
    score = {"score": judge.name, "threshold": judge.threshold, "on_exceed": judge.action}
    score |= {} if judge.flag is None else {"flag_threshold": judge.flag}
    sigmas = {"sigma_every": output.sigma_every} if output.sigma_every else {}
    saved = {"save_every": output.save_every, **sigmas}
    return {**integrator.settings(), **saved, **({} if judge.threshold is None else score)}


def _unflatten(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """``group/name`` keys as nested dicts; keys without a group are left out."""
    out: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, _, name = key.partition("/")
        if name:
            out.setdefault(group, {})[name] = value
    return out
