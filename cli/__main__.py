"""Where ``equimd`` and ``python -m equimd.cli`` start: interrupts are seen to before anything large is imported."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

from equimd.errors import EXIT_INTERRUPTED
from equimd.interrupts import at_any_time, not_any_more


def main() -> None:
    """The command line, from the first moment to the last."""
    at_any_time(EXIT_INTERRUPTED)
    # threads that wait for each other by turning round and round take the cores from whatever else runs, and wait ten
    # times as long for one that has none; read when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from equimd.cli.completion import words_of_bash
        from equimd.cli.main import app

        with words_of_bash() if os.environ.get("_EQUIMD_COMPLETE") == "complete_bash" else nullcontext():
            app()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    finally:
        not_any_more()


if __name__ == "__main__":
    main()
