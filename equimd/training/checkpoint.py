"""Checkpoints: the whole state of a training in one file, from which it goes on as if it had never stopped.

Tensors (weights, optimiser moments, moving average, best weights so far, running sums of the epoch) and counters are
one safetensors file, replaced atomically, so that a kill at any moment leaves the previous checkpoint or the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equimd.errors import RunError
from equimd.files import load_tensors, save_tensors, understood


@dataclass
class Progress:
    """Where a training stands. ``batch`` counts batches done of ``epoch``, so that it can go on within an epoch."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    place: float = 0.0  # steps, if each epoch had as many as the first one: batches by atoms are not as many in each
    elapsed: float = 0.0  # seconds of training, over all its sessions
    compiling: float = 0.0  # seconds of compilation, which do not count in these
    atoms: int = 0  # of the steps that took so many seconds, and waited so many for data; see equimd.training.pace
    stepping: float = 0.0
    waiting: float = 0.0
    rows: int = 0  # lines of metrics.csv that belong to this state
    best: float | None = None
    best_epoch: int = 0
    last_validated: int = -1  # step at the last validation
    schedule: dict[str, float] = field(default_factory=dict)  # state of the plateau schedule
    last_row: dict[str, float] = field(default_factory=dict)


def flatten(tree: object, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Nested dicts and lists as flat ``a/b/0`` keys: tensors, and the plain values beside them."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    if isinstance(tree, Mapping):
        items = [(str(k), v) for k, v in tree.items()]
    elif isinstance(tree, (list, tuple)):
        items = [(str(k), v) for k, v in enumerate(tree)]
    else:
        items = []
    for key, value in items:
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, (Mapping, list, tuple)):
            inner, rest = flatten(value, f"{name}/")
            tensors.update(inner)
            plain.update(rest)
        else:
            plain[name] = value
    return tensors, plain


def unflatten(tensors: Mapping[str, Tensor], plain: Mapping[str, Any], like: object, prefix: str = "") -> Any:
    """The nested structure of ``like`` filled with the values of :func:`flatten`.

    Raises:
        KeyError: a value is missing.
    """
    if isinstance(like, Mapping):
        return {k: unflatten(tensors, plain, v, f"{prefix}{k}/") for k, v in like.items()}
    if isinstance(like, (list, tuple)):
        return [unflatten(tensors, plain, v, f"{prefix}{k}/") for k, v in enumerate(like)]
    name = prefix.removesuffix("/")
    return tensors[name] if name in tensors else plain[name]


def save_checkpoint(
    path: Path,
    progress: Progress,
    *,
    model: Mapping[str, Tensor],
    step: Mapping[str, Any],
    best: Mapping[str, Tensor] | None,
    totals: Tensor,
    identity: str,
) -> None:
    """Write a checkpoint. ``identity`` names the training (settings and data) that it may continue."""
    tensors, plain = flatten({"step": step, "model": dict(model), "best": dict(best or {})})
    meta = {"progress": asdict(progress), "plain": plain, "identity": identity, "has_best": best is not None}
    save_tensors(path, {**tensors, "totals": totals}, meta, "checkpoint")


@dataclass
class Checkpoint:
    """What :func:`load_checkpoint` read."""

    progress: Progress
    tensors: dict[str, Tensor]
    plain: dict[str, Any]
    has_best: bool
    where: str

    def part(self, name: str, like: Mapping[str, Any]) -> dict[str, Any]:
        """The ``model``, ``step`` or ``best`` part, in the structure of ``like``.

        Raises:
            RunError: the checkpoint is of a training with other weights.
        """
        try:
            filled = unflatten(self.tensors, self.plain, like, f"{name}/")
        except KeyError as error:
            raise RunError(f"the checkpoint lacks {error}: it is of another model", where=self.where) from None
        return dict(filled)

    @property
    def totals(self) -> Tensor:
        """Running sums of the epoch under way."""
        return self.tensors["totals"].to(torch.float64)


def load_checkpoint(path: Path, identity: str) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        RunError: missing, truncated, damaged, newer than this version, or of another training.
    """
    tensors, meta = load_tensors(path, "checkpoint")
    if meta.get("identity") != identity:
        raise RunError(
            "the checkpoint is of other settings or other data", where=str(path), hint="train anew in another --out"
        )
    with understood(path, hint="use a copy, or train again"):
        progress, like = Progress(**{"place": meta["progress"]["step"], **meta["progress"]}), Progress(best=0.0)
        for name, value in vars(progress).items():
            known = type(getattr(like, name))
            if not isinstance(value, (known, int) if known is float else known) and (name, value) != ("best", None):
                raise TypeError(f"progress of {name}: {value!r}")
        return Checkpoint(
            progress, {"totals": tensors["totals"], **tensors}, dict(meta["plain"]), bool(meta["has_best"]), str(path)
        )
