"""Data: frames, data sets, readers of every supported format, the store, splits and reference energies.

Names are imported on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equimd.data.dataset import ArrayDataset as ArrayDataset
    from equimd.data.dataset import ConcatDataset as ConcatDataset
    from equimd.data.dataset import Dataset as Dataset
    from equimd.data.dataset import DatasetInfo as DatasetInfo
    from equimd.data.dataset import Subset as Subset
    from equimd.data.dataset import Units as Units
    from equimd.data.frames import Frames as Frames
    from equimd.data.readers import open_dataset as open_dataset
    from equimd.data.reference import fit_atomic_energies as fit_atomic_energies
    from equimd.data.reference import isolated_atom_energies as isolated_atom_energies
    from equimd.data.split import Split as Split
    from equimd.data.split import make_split as make_split
    from equimd.data.store import StoreDataset as StoreDataset
    from equimd.data.store import write_store as write_store

_HOME = {
    "ArrayDataset": "dataset",
    "ConcatDataset": "dataset",
    "Dataset": "dataset",
    "DatasetInfo": "dataset",
    "Subset": "dataset",
    "Units": "dataset",
    "Frames": "frames",
    "open_dataset": "readers",
    "fit_atomic_energies": "reference",
    "isolated_atom_energies": "reference",
    "Split": "split",
    "make_split": "split",
    "StoreDataset": "store",
    "write_store": "store",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
