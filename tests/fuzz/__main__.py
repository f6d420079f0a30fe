"""``python -m tests.fuzz --inputs 20000 [--seed N] [--target NAME ...] [--keep FOLDER]``: the long form, by hand."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.harness import fuzz
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first input; input k has seed + k")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="try these only; may be repeated")
    parser.add_argument("--seconds", type=float, help="end after so long")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that are found")
    parser.add_argument("--out", type=Path, help="folder of reliability.json, which takes the counts")
    options = parser.parse_args()
    found = fuzz(
        options.inputs, seed=options.seed, targets=options.target or (), seconds=options.seconds, keep=options.keep
    )
    print(found.table())
    if options.out:
        from tests.kills.table import save_counts

        tried = {("fuzz", name): (sum(c.values()), c["read"] + c["refused"]) for name, c in found.counts.items()}
        inputs = sum(total for total, _ in tried.values())
        save_counts(tried, options.out, f"python -m tests.fuzz --inputs {inputs} --seed {options.seed}")
    for finding in found.findings:
        print(f"\n{finding.outcome}: --target {finding.target} --seed {finding.seed} --inputs 1  {finding.path or ''}")
        print(finding.text)
    return 1 if found.findings else 0


if __name__ == "__main__":
    sys.exit(main())
