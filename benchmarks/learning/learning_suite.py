"""Labels against error: what frames, and what cheap labels before them, make few labels of the reference suffice.

All frames are the bundled ethanol, labelled by GFN2-xTB; the cheap method is GFN1-xTB. The pool to choose from is
``ethanol-train`` (1000 frames at 300 K) and ``ethanol-1000K`` (500), since choosing shows where frames differ, less 50
drawn from them that validate every training. The tests are ``ethanol-test`` (300 K) and ``ethanol-600K``, which no
model and no choice sees. Models are measured alone, those whose frames an ensemble chose too.

Writes learning.json, learning.md and learning.png after each training, so that several processes, each with chains of
its own (``--ways``, ``--seeds``), fill the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from equimd.benchmarks.accuracy.accuracy_suite import budget, preset_name
from equimd.benchmarks.learning.chains import METRICS, N_VAL, WAYS, Bench
from equimd.benchmarks.options import Options, say
from equimd.benchmarks.results import Row, merge
from equimd.data import open_dataset
from equimd.data.bundled import path
from equimd.data.frames import Frames
from equimd.files import file_digest

SIZES = (50, 100, 200)
POOL, TESTS = ("ethanol-train", "ethanol-1000K"), {"300K": "ethanol-test", "600K": "ethanol-600K"}


def run(options: Options, *, ways: Sequence[str] = tuple(WAYS), sizes: Sequence[int] = SIZES) -> Path:
    """Run the suite; returns the table's path.

    Args:
        ways: of :data:`~.chains.WAYS`. sizes: labels trained on, ascending, more than the first frames.
    """
    from equimd.benchmarks.learning import learning_tables

    bench = ethanol(options)
    hashes = {path(name).name: file_digest(path(name)) for name in (*POOL, *TESTS.values())}
    for seed in options.seeds:
        for way in ways:
            say(f"learning {way}, seed {seed}, {budget(options)}")
            for size, errors in bench.chain(way, seed, sizes):
                new = rows(way, seed, size, errors, options, sizes)
                learning_tables.write(merge(options.out / "learning.json", "learning", new, hashes), options.out)
    return options.out / "learning.md"


def ethanol(options: Options) -> Bench:
    """The bundled frames, and trainings with these options."""
    every = Frames.concatenate([_bundled(name) for name in POOL])
    order = np.random.default_rng(0).permutation(len(every))
    return Bench(
        every.take(np.sort(order[N_VAL:])),
        every.take(np.sort(order[:N_VAL])),
        {name: _bundled(data) for name, data in TESTS.items()},
        options.work / "learning",
        options.budget_s,
        {"preset": preset_name(options), "threads": 1},
    )


def _bundled(name: str) -> Frames:
    return open_dataset([path(name)]).frames()


def rows(
    way: str, seed: int, size: int, errors: dict[str, dict[str, float]], options: Options, sizes: Sequence[int]
) -> list[Row]:
    """The figures of one training."""
    asked = f"--ways {way} --sizes {','.join(map(str, sizes))} --seeds {seed} --budget {budget(options)}"
    asked += f" --preset {options.preset}" if options.preset else ""
    return [
        Row(
            f"bundled/ethanol/{test}-n{size}/{way}-seed{seed}/{metric}",
            found[metric],
            unit,
            f"equimd bench learning {asked}",
            preset_name(options),
            options.budget_s,
            size,
            seed,
        )
        for test, found in errors.items()
        for metric, unit in METRICS.items()
    ]
