"""Properties of rates and ramps for any configuration."""

from hypothesis import given
from hypothesis import strategies as st

from online_swav.learning.config import RampConfig, ScheduleConfig
from online_swav.learning.schedule import learning_rate, ramp

STEPS = st.integers(0, 10**6)
RATES = st.floats(1e-6, 10)


@given(RATES, RATES, st.integers(0, 1000), STEPS)
def test_a_ramp_stays_between_its_ends(start, end, steps, step):
    value = ramp(step, RampConfig(start=start, end=end, steps=steps))
    low, high = min(start, end), max(start, end)
    assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


@given(RATES, st.integers(0, 1000), STEPS)
def test_hold_never_falls(peak, warmup_steps, step):
    config = ScheduleConfig(warmup_steps=warmup_steps)
    now = learning_rate(step, peak_lr=peak, config=config)
    assert now <= learning_rate(step + 1, peak_lr=peak, config=config) <= peak


@given(RATES, st.integers(0, 1000), st.integers(1, 1000), STEPS)
def test_cosine_falls_after_the_warm_up_and_stays_positive(peak, warmup_steps, length, step):
    config = ScheduleConfig(
        kind="cosine", warmup_steps=warmup_steps, total_steps=warmup_steps + length
    )
    now = learning_rate(warmup_steps + step, peak_lr=peak, config=config)
    assert 0 <= learning_rate(warmup_steps + step + 1, peak_lr=peak, config=config) <= now <= peak
