"""Rates and ramps at the steps that matter."""

import pytest

from online_swav.learning.config import RampConfig, ScheduleConfig
from online_swav.learning.schedule import learning_rate, ramp


def test_hold_warms_up_and_stays_for_ever():
    config = ScheduleConfig(warmup_steps=10, warmup_lr=0.1)
    rates = [learning_rate(step, peak_lr=0.6, config=config) for step in (0, 5, 10, 10**9)]
    assert rates == pytest.approx([0.1, 0.35, 0.6, 0.6])


def test_cosine_ends_at_its_final_rate_and_stays():
    config = ScheduleConfig(kind="cosine", warmup_steps=10, total_steps=110, final_lr=0.2)
    rates = [learning_rate(step, peak_lr=1.0, config=config) for step in (0, 10, 60, 110, 10**9)]
    assert rates == pytest.approx([0.0, 1.0, 0.6, 0.2, 0.2])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("linear", [1.0, 1.0, 0.7, 0.4]), ("sqrt", [1.0, 1.0, 0.8 - 0.6 * 0.5**0.5 + 0.2, 0.4]),
     ("cosine", [1.0, 1.0, 0.7, 0.4])],
)  # fmt: skip
def test_a_rate_may_hold_and_fall_at_the_end_alone(kind, expected):
    config = ScheduleConfig(
        kind=kind, warmup_steps=10, total_steps=110, decay_steps=20, final_lr=0.4
    )
    rates = [learning_rate(step, peak_lr=1.0, config=config) for step in (10, 90, 100, 110)]
    assert rates == pytest.approx(expected)
    assert learning_rate(10**9, peak_lr=1.0, config=config) == 0.4


@pytest.mark.parametrize("options", [
    {"kind": "hold", "total_steps": 100},
    {"kind": "hold", "decay_steps": 100},
    {"kind": "linear"},
    {"kind": "sqrt", "total_steps": 10},
    {"kind": "linear", "total_steps": 20, "decay_steps": 11},
    {"kind": "linear", "total_steps": 20, "decay_steps": 0},
])  # fmt: skip
def test_a_schedule_that_means_nothing_is_refused(options):
    with pytest.raises(ValueError, match="_steps"):
        ScheduleConfig(warmup_steps=10, **options)


def test_without_warm_up_the_first_rate_is_the_peak():
    assert learning_rate(0, peak_lr=0.6, config=ScheduleConfig(warmup_steps=0)) == 0.6


def test_ramps_are_linear_and_then_constant():
    config = RampConfig(start=0.01, end=0.05, steps=4)
    assert [ramp(step, config) for step in (0, 1, 4, 9)] == pytest.approx([0.01, 0.02, 0.05, 0.05])
    assert ramp(0, RampConfig(start=0.01, end=0.05)) == 0.05
