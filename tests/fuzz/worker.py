"""Tries inputs: reads ``TARGET<tab>PATH`` lines on stdin, answers with what happened, one JSON object a line."""

from __future__ import annotations

import json
import resource
import sys
import traceback
import warnings
from pathlib import Path

#: Memory that one input may take beyond what the process has when it starts.
MEMORY = 1 << 30


def answer(target: str, path: Path) -> dict[str, str]:
    """What an input ends in: ``read``, ``refused``, or the traceback of what it must not end in."""
    from equimd.errors import EquimdError
    from tests.fuzz.targets import TARGETS

    try:
        if target == "python":  # what the harness itself is tested with
            exec(compile(path.read_text(), str(path), "exec"), {})
        else:
            TARGETS[target].use(path)
    except EquimdError as error:
        wanted = isinstance(error.__cause__, MemoryError)
        return {"outcome": "memory" if wanted else "refused", "text": str(error)[:300]}
    except MemoryError:
        return {"outcome": "memory", "text": traceback.format_exc()[-1500:]}
    except Exception as error:
        return {"outcome": "traceback", "text": f"{type(error).__name__}\n{traceback.format_exc()[-1500:]}"}
    return {"outcome": "read", "text": ""}


def main() -> None:
    from tests.fuzz.targets import warm_up

    warnings.simplefilter("ignore")
    warm_up()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    print(json.dumps({"outcome": "ready", "text": ""}), flush=True)
    for line in sys.stdin:
        target, _, path = line.rstrip("\n").partition("\t")
        print(json.dumps(answer(target, Path(path))), flush=True)


if __name__ == "__main__":
    main()
