"""``python -m tests.kills --kills 200 [--seed N] [--case NAME ...] [--disks] [--out FOLDER]``: the long form."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.kills.cases import CASES
from tests.kills.faults import faults
from tests.kills.harness import kills
from tests.kills.table import save


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--disks", action="store_true", help="full disks, read-only folders, two processes in one")
    parser.add_argument("--seed", type=int, default=0, help="of the first kill; kill k has seed + k")
    parser.add_argument("--case", action="append", choices=list(CASES), help="try these only; may be repeated")
    parser.add_argument("--seconds", type=float, help="begin no kill after so long")
    parser.add_argument("--out", type=Path, help="folder of reliability.json, which takes the counts")
    options = parser.parse_args()
    names, trials = tuple(options.case or ()), []
    cases = "".join(f" --case {name}" for name in names)
    if options.kills:
        trials = kills(options.kills, seed=options.seed, names=names, seconds=options.seconds)
        if options.out:
            save(trials, options.out, f"python -m tests.kills --kills {len(trials)} --seed {options.seed}{cases}")
    if options.disks:
        others = faults(names)
        trials += others
        if options.out:
            save(others, options.out, f"python -m tests.kills --disks{cases}")
    bad = [t for t in trials if t.wrong]
    for t in bad:
        print(f"{t.fault} of {t.case}, seed {t.seed}, {t.moment:.2f} s: {t.wrong}")
    print(f"{len(trials)} tried, {len(bad)} not as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
