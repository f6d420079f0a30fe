"""Where more labels do not help, the model's settings are changed, not only its data: the loss, then its size."""

from __future__ import annotations

from typing import Any

from equimd.tasks.learn.work import Work

#: Of the loss, where forces are learned poorly: nearly all of it for the forces.
FORCES = {"energy_weight": 0.01, "forces_weight": 0.99}
LARGER = {"small": "default", "default": "accurate"}
FAR = 0.25  # a training error below this part of the validation error is far below it
ROUNDS = 2  # over which labels have not helped


def changes(work: Work, number: int) -> dict[str, Any]:
    """How the settings of a model differ from those asked for: {values, why}; decided once, from what the models before
    it showed.

    Labels do not help where the validation error of the forces stayed above the error that makes a frame bad over two
    rounds, or training errors are far below validation errors that are still half of it.
    """

    def decide() -> dict[str, Any]:
        before = work.journal.decision(f"changes-{number - 1}")
        values, since = dict(before.get("values", {})), int(before.get("since", 0))
        if number - since < ROUNDS:
            return {"values": values, "since": since, "why": None}
        shown = [work.journal.result(f"train-{k}") or {} for k in range(number - ROUNDS, number)]
        val = [float(r.get("val_forces_mae", 0.0)) for r in shown]
        train, error = float(shown[-1].get("train_forces_mae", val[-1])), work.settings.error
        if min(val) > error:
            why = f"validation forces stayed above {error:g} eV/A over {ROUNDS} rounds"
        elif min(val) > error / 2 and train < FAR * val[-1]:
            why = (
                f"training forces ({1e3 * train:.0f} meV/A) are far below validation forces ({1e3 * val[-1]:.0f} meV/A)"
            )
        else:
            return {"values": values, "since": since, "why": None}
        size = values.get("preset", work.settings.size)
        if "forces_weight" not in values:
            values |= FORCES
        elif size in LARGER:
            values["preset"] = LARGER[size]
        else:
            return {"values": values, "since": since, "why": None}
        return {"values": values, "since": number, "why": why}

    return work.journal.decide(f"changes-{number}", decide)


def in_words(changed: dict[str, Any]) -> str | None:
    """What was changed and why; None if nothing was."""
    if not changed["why"]:
        return None
    now = ", ".join(f"{key} {value}" for key, value in changed["values"].items())
    return f"{changed['why']}: the next models have {now}"
