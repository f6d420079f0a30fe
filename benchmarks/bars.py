"""What the plots of bars have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def finish(figure: Any, axes: Any, path: Path, columns: int) -> None:
    """The legend above in so many columns, no frame; written as PNG and closed."""
    import matplotlib.pyplot as plt

    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    figure.savefig(path, dpi=150)
    plt.close(figure)
