"""The certificate: what an audit showed of a model, in numbers and in words.

*Of the frames that a run of L steps at T visits and the guard lets pass, the share with a force error above tau on any
atom is below x; ordinary runs of L steps halt with a probability below alpha; each with the stated confidence.* An
audit makes B fresh runs at the threshold that the model ships with, and labels one frame of each, at a step drawn
uniformly beforehand. A draw that falls behind a halt is replaced by a further run's: of runs drawn independently, the
frames that passed are independent draws from the frames that pass, so that the bound of Clopper and Pearson is exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from equimd.errors import RunError
from equimd.files import STRANGE, strictly, write_atomic

CERTIFICATE_FILE = "certificate.json"
#: How the file names what the classes name otherwise.
KEYS = {
    "error": "error_eV_per_A", "attempt": "try", "draws": "draws_passed", "runs": "audited_runs",
    "failed": "draws_failed", "largest": "largest_error_eV_per_A",
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """What is to be shown.

    Attributes:
        error: tau, eV/Angstrom: a frame with a larger force error on any atom is bad.
        share: of bad frames among those that pass, at most. false_halt_rate: of runs that halt, at most.
    """

    error: float
    share: float
    false_halt_rate: float


@dataclass(frozen=True)
class Finding:
    """What an audit found.

    Attributes:
        attempt: which try it was, from 1: its confidence is 1 - 0.05 / 2^attempt.
        draws, bad: labelled frames that had passed, and those with an error above tau.
        runs, halts: the runs planned for the bound on halts, and how many of them halted.
        further_runs, further_halts: runs beyond these, made to replace draws that fell behind a halt.
        failed: draws that the reference method gave no label for.
        largest: the largest force error of all draws, eV/Angstrom.
    """

    attempt: int
    confidence: float
    draws: int
    bad: int
    share_bound: float
    runs: int
    halts: int
    halts_bound: float
    further_runs: int = 0
    further_halts: int = 0
    failed: int = 0
    largest: float = float("nan")

    def missing(self, claim: Claim) -> list[str]:
        """What keeps it from being a certificate; nothing if it is one."""
        found = []
        if not self.share_bound < claim.share:
            found.append(
                f"{self.bad} of {self.draws} audited frames have a force error above {claim.error:g} eV/A, which shows "
                f"a share below {percent(self.share_bound)}, not {percent(claim.share)}"
            )
        if not self.halts_bound < claim.false_halt_rate:
            found.append(
                f"{self.halts} of {self.runs} runs halted, which shows a rate below {percent(self.halts_bound)}, not "
                f"{percent(claim.false_halt_rate)}"
            )
        return found


@dataclass(frozen=True)
class _Threshold:
    value: float
    action: str


@dataclass(frozen=True)
class Certificate:
    """A claim that an audit has shown, and of what: the keys of certificate.json, but ``claim`` and ``finding``.

    Attributes:
        method: the reference. starts: what the audited runs started from, in words.
        threshold: {value, unit, action} of the guard.
        labels: by use, {train, calibrate, audit, failed, total}.
        model_sha256, data_sha256: of the weights, and of the frames by part.
    """

    claim: Claim
    finding: Finding
    run_length: int
    temperature_K: float  # noqa: N815 (a unit)
    ensemble: str
    dt_fs: float
    friction_per_fs: float
    starts: str
    method: str
    threshold: dict[str, Any]
    model_sha256: str
    data_sha256: dict[str, str]
    labels: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        rest = {k: v for k, v in asdict(self).items() if k not in ("claim", "finding")}
        told = {**asdict(self.claim), **asdict(self.finding)}
        return {**{KEYS.get(name, name): value for name, value in told.items()}, **rest}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Certificate:
        """Undo :meth:`to_json`.

        Raises:
            ValueError, KeyError: a value is missing, or of another type.
        """
        strictly(_Threshold, values["threshold"])
        parts = {part: {f.name: values[KEYS.get(f.name, f.name)] for f in fields(part)} for part in (Claim, Finding)}
        return strictly(cls, {**values, "claim": parts[Claim], "finding": parts[Finding]})

    @property
    def words(self) -> str:
        """What it says, for a person."""
        return words(self.to_json())


def percent(share: float) -> str:
    """A share as per cent, three significant digits: a bound of 4.99 % is not 5 %."""
    return f"{100 * share:.3g} %"


def words(certificate: Mapping[str, Any]) -> str:
    """What a certificate says, for a person."""
    c = certificate
    length = f"{c['run_length']} steps ({c['run_length'] * c['dt_fs'] / 1000:.3g} ps)"
    failed = f"; {c['method']} gave no label for {c['draws_failed']} further draws" if c["draws_failed"] else ""
    return (
        f"Certified against {c['method']}: of the frames that a run of {length} at {c['temperature_K']:g} K visits and "
        f"the guard lets pass, fewer than {percent(c['share'])} have a force error above {c['error_eV_per_A']:g} eV/A "
        f"on any atom ({c['bad']} of {c['draws_passed']} audited: below {percent(c['share_bound'])}), and such runs "
        f"halt with a probability below {percent(c['false_halt_rate'])} ({c['halts']} of {c['audited_runs']}: below "
        f"{percent(c['halts_bound'])}); each with {percent(0.95)} confidence over all tries (try {c['try']}, "
        f"{100 * c['confidence']:.4g} %). Runs start from {c['starts']}; the guard {c['threshold']['action']}s above a "
        f"force sigma of {c['threshold']['value']:.3g} eV/A{failed}. Nothing is said of states that such runs never "
        "visit."
    )


def save_certificate(folder: Path, certificate: Certificate) -> Path:
    """Write it beside the model that it is of."""
    path = folder / CERTIFICATE_FILE
    write_atomic(path, json.dumps(certificate.to_json(), indent=2, allow_nan=False) + "\n")
    return path


def load_certificate(folder: str | Path, model_sha256: str) -> dict[str, Any] | None:
    """The certificate of a run; None if it has none, or one of other weights.

    Raises:
        RunError: it is damaged.
    """
    path = Path(folder) / CERTIFICATE_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Certificate.from_json(found).to_json() if found["model_sha256"] == model_sha256 else None
    except (OSError, *STRANGE) as error:
        what = f"the certificate cannot be read ({error})"
        raise RunError(what, where=str(path), hint="audit the run again") from None
