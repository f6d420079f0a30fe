"""The tries of a run: audits counted in its folder when they begin, since one that is given up has been looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from equimd.errors import RunError
from equimd.files import STRANGE, check_version, strictly, write_json
from equimd.guard.certificate import Finding
from equimd.tasks.audit.task import AuditPlan

TRIES_FILE = "audits.json"
VERSION = 1


@dataclass
class _Try:
    attempt: int
    asked: dict[str, Any]
    plan: AuditPlan | None
    finding: Finding | None


@dataclass
class Tries:
    """What has been tried with a run.

    Attributes:
        made: {attempt, asked, plan, finding} each, in order; the finding of one that was not finished is None.
    """

    folder: Path
    made: list[dict[str, Any]]

    @classmethod
    def of(cls, folder: Path) -> Tries:
        """Those on file.

        Raises:
            RunError: the file is damaged or of a newer version: it cannot be known how many there were.
        """
        path = folder / TRIES_FILE
        if not path.is_file():
            return cls(folder, [])
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            check_version(found["version"], VERSION, path, "the tries")
            return cls(folder, [asdict(strictly(_Try, each)) for each in found["tries"]])
        except (OSError, *STRANGE) as error:
            raise RunError(f"the tries cannot be read ({error})", where=str(path)) from None

    def open(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """The last try, if it was not finished and asked for the same; else None, and it is spent."""
        last = self.made[-1] if self.made else None
        return last if last is not None and last["finding"] is None and last["asked"] == dict(asked) else None

    @property
    def next(self) -> int:
        """The number of a new try."""
        return len(self.made) + 1

    def begin(self, asked: Mapping[str, Any], plan: AuditPlan) -> None:
        """Count a try, before anything of it is made."""
        self.made.append({"attempt": plan.attempt, "asked": dict(asked), "plan": asdict(plan), "finding": None})
        self.save()

    def finish(self, finding: Finding) -> None:
        """Note what the last try found."""
        self.made[-1]["finding"] = asdict(finding)
        self.save()

    def save(self) -> None:
        """Write the file."""
        write_json(self.folder / TRIES_FILE, {"version": VERSION, "tries": self.made})
