"""The table of rounds."""

from __future__ import annotations

from equimd.tasks.learn.report import HEAD, WIDTHS, table_head


def test_the_head_fits_80_columns_and_its_names_stay_apart() -> None:
    assert max(map(len, table_head())) < 80
    assert all(len(name) < width or k == 0 for k, (name, width) in enumerate(zip(HEAD, WIDTHS, strict=True)))
    assert table_head()[-1].split("  ")[-1].strip() == "time"
