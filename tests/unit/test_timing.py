"""What a step's batch adds to the histograms, the data's age and the share of near-duplicates."""

import numpy as np
import pytest

from online_swav.histogram import Histogram
from online_swav.status import HISTOGRAMS
from online_swav.timing import StepTimes
from streams.batch import Batch
from streams.shard import Origin, SampleId


def batch(passes, *, arrived_at=100.0, decode_s=(), near_duplicates=()):
    count = len(passes)
    return Batch(
        crops=(np.zeros((2, count, 4, 4, 3), np.uint8),),
        origins=tuple(Origin(SampleId("s", i), p, 0) for i, p in enumerate(passes)),
        arrived_at=(arrived_at,) * count, decode_s=decode_s, near_duplicates=near_duplicates,
    )  # fmt: skip


def test_a_histogram_counts_each_value_once_and_its_bounds_belong_to_their_bucket():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.cumulative() == [("1", 2.0), ("2", 3.0), ("+Inf", 4.0)]
    assert (histogram.total, histogram.sum) == (4, 12.0)
    copy = histogram.copy()
    histogram.observe(0.1)
    assert copy.total == 4
    with pytest.raises(ValueError, match="must ascend"):
        Histogram((2.0, 1.0))
    with pytest.raises(ValueError, match="need 3 counts"):
        Histogram((1.0, 2.0), [1])


def test_every_histogram_counts_what_its_name_says():
    times = StepTimes()
    times.step(batch([0, 0, 1], decode_s=(0.001, 0.002, 0.003)), step_s=0.2, waited_s=1.0, now=130)
    times.step(batch([1]), step_s=0.4, waited_s=1.5, now=140)
    found = times.histograms()
    assert found.keys() == HISTOGRAMS.keys()
    assert (found["step_duration_seconds"].total, found["step_duration_seconds"].sum) == (
        2, pytest.approx(0.6)
    )  # fmt: skip
    assert found["batch_wait_seconds"].sum == pytest.approx(1.5)
    assert found["decode_duration_seconds"].total == 3
    assert (found["ingest_lag_seconds"].total, found["ingest_lag_seconds"].sum) == (2, 60.0)
    assert times.data_age_s is None, "the last step only replayed"
    times.step(batch([0]), step_s=0.4, waited_s=1.5, now=110)
    assert times.data_age_s == 10.0


def test_near_duplicates_are_a_share_of_the_images_seen_for_the_first_time():
    times = StepTimes()
    assert times.near_duplicate_ratio is None
    for _ in range(50):
        times.step(batch([0, 0, 0, 1], near_duplicates=(True, True, False, False)),
                   step_s=0.1, waited_s=0, now=130)  # fmt: skip
    assert times.near_duplicate_ratio == pytest.approx(2 / 3)
    times.step(batch([1, 1], near_duplicates=(False, False)), step_s=0.1, waited_s=0, now=130)
    assert times.near_duplicate_ratio == pytest.approx(2 / 3), "replays say nothing"


def test_a_batch_without_images_is_no_image():
    times = StepTimes()
    times.step(batch([]), step_s=0.1, waited_s=0.0, now=0.0)
    assert times.data_age_s is None
    assert times.histograms()["ingest_lag_seconds"].total == 0
