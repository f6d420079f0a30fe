"""A hundred million structures, from a line through two measured numbers of them."""

from __future__ import annotations

from equimd.benchmarks.scale import ahead


def test_a_line_through_two_numbers_goes_on() -> None:
    measured = {
        1000: {"bytes_per_frame": 500, "first_step_s": 10.0, "peak_MiB": 1024, "frames_per_s": 10.0},
        11_000: {"bytes_per_frame": 400, "first_step_s": 11.0, "peak_MiB": 1228.8, "frames_per_s": 12.5},
        200: {"bytes_per_frame": 9e9, "first_step_s": 900.0, "peak_MiB": 9e9, "frames_per_s": 1.0},
    }
    rows = [
        {"name": f"scale/mixed/{count}/atoms-1000/{metric}", "value": value}
        for count, metrics in measured.items()
        for metric, value in metrics.items()
    ]
    rows.append({"name": "scale/ethanol/1000/frames-10/peak_MiB", "value": 1.0})  # of one number alone
    rows.append({"name": "scale/mixed/11000/inspect/peak_MiB", "value": 1.0})
    lines = ahead.ahead({"rows": rows}, 1_011_000).splitlines()
    assert lines[0] == "| 1,011,000 structures | mixed |"
    # 1e-4 s and 0.02048 MiB a frame more
    assert lines[2:] == [
        "| on disk | 0 GB |",
        "| command to first step | 1m51s |",
        "| memory of each process | 21 GiB |",
        "| an epoch on 64 such processes | 0 h |",
    ]
    rows[6]["value"] = 1040.0
    assert "| memory of each process | growth hidden by the step's own |" in ahead.ahead({"rows": rows})
    assert "| on disk | 40 GB |" in ahead.ahead({"rows": rows})
    assert "| an epoch on 64 such processes | 35 h |" in ahead.ahead({"rows": rows})
