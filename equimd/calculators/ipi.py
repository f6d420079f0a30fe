"""A trained model as a driver of i-PI: energies and forces over its socket, and the guard of the calculator.

The protocol is that of ASE's ``SocketClient``. One client serves one structure at a time; replicas and beads of path
integrals are spread by i-PI over as many clients as connect. The virial is sent of periodic structures, from
conservative models; without one, a cell that changes is refused.

On a halt the client does not answer the frame that it refuses. It writes ``EXIT`` into i-PI's folder, which i-PI looks
for every second: it ends the run softly and leaves a RESTART of the last whole step. It goes on waiting for the frame,
though, until the client disconnects, so that the client does so as soon as i-PI has looked. Where the folder cannot be
reached from here, ``<ffsocket exit_on_disconnect='True'>`` in i-PI's input has the same effect.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.socketio import SocketClient
from ase.io import write

from equimd.calculators import EquimdCalculator
from equimd.data.state import CHARGE_KEYS, SPIN_KEYS
from equimd.errors import DataError, GuardError, RunError
from equimd.model.interface import gives_virial

log = logging.getLogger(__name__)
DEFAULT_PORT = 31415
PATIENCE = 1.5  # seconds that i-PI, which looks every second, is given to see EXIT


@dataclass(frozen=True)
class Address:
    """Where i-PI listens: a UNIX socket (i-PI's ``mode='unix'``, its address), or a host and a port."""

    unix: str | None = None
    host: str = "localhost"
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"UNIX socket {self.unix}" if self.unix else f"{self.host}:{self.port}"


@dataclass
class Served:
    """What a client did.

    Attributes:
        count: structures computed. n_flagged: events. halt: of the refused frame.
        threshold, flag_threshold: what is done something above, and a lower one above which frames are flagged, eV/A.
    """

    count: int = 0
    n_flagged: int = 0
    halt: GuardError | None = None
    threshold: float | None = None
    flag_threshold: float | None = None

    def summary(self) -> dict[str, Any]:
        """For ``--json``."""
        h = self.halt
        halted = [] if h is None else [
            {"reason": h.what, "code": h.code, "score": h.score, "threshold": h.threshold, "atoms": list(h.atoms)}
        ]  # fmt: skip
        return {
            "status": "completed" if h is None else "halted",
            "n_structures": self.count,
            "threshold": self.threshold,
            "flag_threshold": self.flag_threshold,
            "n_flagged": self.n_flagged,
            "halted": halted,
        }


def refuse_change(cell: np.ndarray, now: np.ndarray) -> None:
    """Raises DataError where i-PI changes a cell, Angstrom, that it gets no virial of."""
    if not np.allclose(now, cell, rtol=0, atol=1e-6):
        what = "i-PI changes the cell, and there is no virial to do it by"
        hint = "an ensemble of constant volume, or a conservative model of a periodic structure"
        raise DataError(what, where="i-PI", hint=hint)


class _Client(SocketClient):
    """ASE's client, which on a halt keeps i-PI waiting for the refused frame until it is about to end."""

    refused: Callable[[], None]
    cell: np.ndarray | None = None

    def calculate(self, atoms: Atoms, use_stress: bool) -> Any:
        try:
            if not use_stress:
                self.cell = atoms.cell.array.copy() if self.cell is None else self.cell
                refuse_change(self.cell, atoms.cell.array)
            return super().calculate(atoms, use_stress)
        except (GuardError, DataError):
            self.refused()
            self._wait(PATIENCE)
            raise

    def _wait(self, seconds: float) -> None:
        """For i-PI to see EXIT. Closing the connection before would have it hand the frame to another client."""
        socket, until = self.protocol.socket, time.monotonic() + seconds
        socket.settimeout(0.1)
        while time.monotonic() < until:
            try:
                if not (message := socket.recv(12)) or message.strip() == b"EXIT":
                    return
            except TimeoutError:
                continue
            except OSError:
                return


@dataclass
class Driver:
    """Serve a structure with a calculator until i-PI ends or the guard halts.

    Args:
        calculator: its guard halts i-PI and flags frames; with ``on_exceed="ignore"`` nothing is judged.
        atoms: elements, boundary and order of the atoms, as in i-PI's own structure; its geometry is the reference of
            the physical checks.
        exit_folder: where i-PI runs.
        frames: extended XYZ that refused and flagged frames are appended to.

    Raises:
        DataError, ModelError: a structure that the calculator does not take.
    """

    calculator: EquimdCalculator
    atoms: Atoms
    exit_folder: Path = field(default_factory=Path)
    frames: Path = field(default_factory=lambda: Path("flagged.extxyz"))

    def __post_init__(self) -> None:
        self.served = Served()
        given = self.atoms
        state = {k: v for k, v in given.info.items() if k.lower() in (*CHARGE_KEYS, *SPIN_KEYS)}
        self.atoms = Atoms(given.numbers, given.positions, cell=given.cell, pbc=given.pbc, info=state)
        if (guard := self.calculator.guard) is not None:
            guard.tell, self.served.threshold = self._flag, guard.threshold
            if guard.rule is not None and guard.rule.flag is not None:
                self.served.flag_threshold = guard.rule.flag[1]
        self.atoms.calc = self.calculator
        self.atoms.get_potential_energy()  # unknown elements and overlapping atoms are told now, not to i-PI

    def run(self, address: Address, *, wait: float = 60.0) -> Served:
        """Connect, and serve. ``wait``: seconds for i-PI to come up.

        Raises:
            RunError: nobody listens there.
            DataError: i-PI moves another number of atoms, sends numbers that are not finite, or changes the cell where
                there is no virial.
        """
        client = _connect(address, wait)
        client.refused = self._exit
        log.info("connected to i-PI at %s", address)
        try:
            for _ in client.irun(self.atoms, use_stress=self.stress):
                self.served.count += 1
        except GuardError as error:
            self.halted(error)
        except ValueError as error:
            raise DataError(f"i-PI moves other atoms than the {len(self.atoms)} given here ({error})") from None
        except AssertionError:
            raise DataError("i-PI sent positions that are not finite", where=str(address)) from None
        except OSError as error:
            log.warning("i-PI closed the connection (%s)", error.strerror or error)
        return self.served

    @property
    def stress(self) -> bool:
        """Whether there is a virial."""
        return gives_virial(self.calculator.model.potential) and bool(self.atoms.pbc.any())

    def halted(self, error: GuardError) -> None:
        """Keep the refused frame and its reason."""
        self.served.halt = error
        self._write(error, "halt")

    def _exit(self) -> None:
        try:
            (self.exit_folder / "EXIT").touch()
        except OSError as error:
            log.warning("EXIT cannot be written (%s): i-PI ends only with exit_on_disconnect='True'", error.strerror)

    def _flag(self, error: GuardError) -> None:
        self.served.n_flagged += 1
        log.warning("flagged, structure %d: %s", self.served.count, error.what)
        self._write(error, "flag")

    def _write(self, error: GuardError, action: str) -> None:
        """Append the frame: one write, so that clients in one folder do not mix theirs."""
        atoms = error.structure
        if not np.isfinite(atoms.positions).all():
            return
        if not np.isfinite(atoms.arrays["atom_score"]).all():
            del atoms.arrays["atom_score"]
        if not atoms.pbc.any():
            atoms.cell = None  # i-PI's own, which means nothing to the molecule
        atoms.info |= {"action": action, "structure": self.served.count}
        text = io.StringIO()
        write(text, atoms, format="extxyz")
        with self.frames.open("a") as file:
            file.write(text.getvalue())


def _connect(address: Address, wait: float) -> _Client:
    until = time.monotonic() + wait
    while True:
        try:
            if address.unix:
                return _Client(unixsocket=address.unix)
            return _Client(host=address.host, port=address.port)
        except OSError as error:
            if time.monotonic() >= until:
                hint = "start i-PI first; address, port and mode are those of <ffsocket> in its input"
                what = f"nobody listens at {address} ({error.strerror or error})"
                raise RunError(what, where="i-PI", hint=hint) from None
        time.sleep(0.2)
