"""How much memory is free: what a file claims is compared with it before it is asked for."""

from __future__ import annotations

import re
from pathlib import Path

#: Taken to be free where the system does not say.
UNKNOWN = 16 << 30


def free_memory() -> int:
    """Bytes of memory that can be had without swapping."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return UNKNOWN
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else UNKNOWN
