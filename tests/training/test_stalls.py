"""Who keeps the others waiting is said: busy processes and silent ones, by the lowest process that waits."""

from __future__ import annotations

import logging
import platform
import time

import pytest
import torch.distributed as dist

from equimd.training.stalls import StallWatch

PATIENCE = 2.0  # looks every half second: a busy machine delays threads


def told(caplog: pytest.LogCaptureFixture, count: int = 1) -> list[str]:
    """The first messages, for which it waits up to 20 seconds."""
    end = time.monotonic() + 20
    while len(caplog.messages) < count and time.monotonic() < end:
        time.sleep(0.01)
    return caplog.messages[:count]


def test_those_behind_are_named_once_by_the_lowest_that_waits(caplog: pytest.LogCaptureFixture) -> None:
    store = dist.HashStore()
    first, second, third = (StallWatch(store, rank, 4, PATIENCE) for rank in range(3))
    with caplog.at_level(logging.WARNING), first, second, third:
        for watch in (first, second, third):
            with watch.call():
                pass
        with first.call(), second.call():  # the third is busy elsewhere; the fourth never came
            messages = told(caplog, 2)  # again after twice the time
    assert len(messages) == 2
    name = f"process 2 on {platform.node()}, busy or stuck"
    assert all(f"{name}; process 3, stopped or out of reach" in m and "--resume" in m for m in messages)
    assert {r.threadName for r in caplog.records} == {"stalls-0"}


def test_the_first_process_itself_can_be_behind(caplog: pytest.LogCaptureFixture) -> None:
    store = dist.HashStore()
    first, second = (StallWatch(store, rank, 2, PATIENCE) for rank in range(2))
    with caplog.at_level(logging.WARNING), first, second, second.call():
        (message,) = told(caplog)
    assert f"for process 0 on {platform.node()}, busy or stuck" in message


def test_nothing_is_said_of_calls_that_end_in_time(caplog: pytest.LogCaptureFixture) -> None:
    store, patience = dist.HashStore(), 4.0
    first, second = (StallWatch(store, rank, 2, patience) for rank in range(2))
    end = time.monotonic() + 0.6 * patience  # two looks
    with caplog.at_level(logging.WARNING), first, second:
        while time.monotonic() < end:
            with first.call(), second.call():
                time.sleep(0.01)
    assert caplog.messages == []
