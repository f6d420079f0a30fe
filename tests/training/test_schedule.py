"""The learning rate over a budget of epochs, of time, and of both."""

from __future__ import annotations

import pytest

from equimd.config import TrainConfig
from equimd.training.schedule import FLOOR, Schedule


def test_cosine_falls_from_the_peak_to_the_floor_over_the_epochs() -> None:
    schedule = Schedule(TrainConfig(lr=1e-3, num_epochs=10, warmup_steps=0), steps_per_epoch=100)
    rates = [schedule.lr(step, 0.0) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[500] == pytest.approx(5e-4)
    assert rates[1000] == pytest.approx(1e-3 * FLOOR)
    assert all(a >= b for a, b in zip(rates, rates[1:], strict=False))


def test_a_time_budget_uses_the_clock_and_whichever_ends_first_counts() -> None:
    timed = Schedule(TrainConfig(lr=1e-3, max_time="100s", warmup_steps=0), steps_per_epoch=10)
    assert timed.lr(5000, 50.0) == pytest.approx(5e-4)
    both = Schedule(TrainConfig(lr=1e-3, max_time=100.0, num_epochs=10, warmup_steps=0), steps_per_epoch=10)
    assert both.used(80, 10.0) == pytest.approx(0.8)
    assert both.used(10, 90.0) == pytest.approx(0.9)


def test_an_epoch_budget_does_not_look_at_the_clock() -> None:
    schedule = Schedule(TrainConfig(lr=1e-3, num_epochs=4), steps_per_epoch=50)
    assert schedule.lr(70, 0.0) == schedule.lr(70, 1e9)


def test_warm_up_rises_linearly_and_takes_at_most_a_tenth() -> None:
    long = Schedule(TrainConfig(lr=1e-3, num_epochs=1000, lr_schedule="constant"), steps_per_epoch=100)
    assert long.lr(0, 0.0) == pytest.approx(1e-3 / 201)
    assert long.lr(99, 0.0) == pytest.approx(1e-3 * 100 / 201)
    assert long.lr(200, 0.0) == pytest.approx(1e-3)
    short = Schedule(TrainConfig(lr=1e-3, num_epochs=1, lr_schedule="constant"), steps_per_epoch=50)
    assert short.lr(5, 0.0) == pytest.approx(1e-3)


def test_plateau_halves_after_its_patience_and_remembers_it() -> None:
    config = TrainConfig(lr=1e-3, lr_schedule="plateau", plateau_patience=3, warmup_steps=0)
    schedule = Schedule(config, steps_per_epoch=10)
    for value in (1.0, 0.5, 0.6, 0.6):
        schedule.validated(value, 1)
    assert schedule.lr(1000, 0.0) == pytest.approx(1e-3)
    schedule.validated(0.7, 1)
    assert schedule.lr(1000, 0.0) == pytest.approx(5e-4)
    again = Schedule(config, 10, dict(schedule.state))
    assert again.lr(1000, 0.0) == pytest.approx(5e-4)
    again.validated(0.4, 1)
    assert again.state["stalled"] == 0.0
