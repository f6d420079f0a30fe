"""Writes stores of format version 1 or 2, a group for each composition, as equimd once did: they stay readable."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np

from equimd.chemistry import formula
from equimd.data import Dataset
from equimd.data.content import add_content
from equimd.data.dataset import time_index

BLANK = {"forces": np.nan, "cell": 0, "pbc": 0, "charge": 0, "spin": 0, "charge_stated": 0, "weight": 1}


def write_grouped(path: Path, data: Dataset) -> str:
    """Returns the hash of the content."""
    block, digest = data.frames(), hashlib.sha256()
    add_content(digest, block)
    keys = [block.numbers[k, :n].tobytes() for k, n in enumerate(block.n_atoms)]
    known = list(dict.fromkeys(keys))
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "equimd-frames", "format_version": 1, "units_energy": "eV"})
        file.attrs.update({"units_length": "Angstrom", "n_frames": len(block), "content_sha256": digest.hexdigest()})
        groups, rows = np.zeros(len(block), np.int32), np.zeros(len(block), np.int64)
        root = file.create_group("composition")
        for number, key in enumerate(known):
            members = np.array([k for k, other in enumerate(keys) if other == key])
            groups[members], rows[members] = number, np.arange(len(members))
            part, numbers = block.take(members), np.frombuffer(key, np.uint8)
            group = root.create_group(f"{number:06d}_{formula(numbers)}")
            group["numbers"] = numbers
            for name in ("positions", "energy", *BLANK):
                values, blank = getattr(part, name), BLANK.get(name)
                if blank is not None and (np.isnan(values) if np.isnan(blank) else values == blank).all():
                    continue
                group.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]))
                if name == "weight":
                    file.attrs["format_version"] = 2
        index = file.create_group("index")
        index["group"], index["row"], index["trajectory"] = groups, rows, data.trajectory
        times = time_index(data)
        if times is not None:
            index["time"] = times
    return digest.hexdigest()
