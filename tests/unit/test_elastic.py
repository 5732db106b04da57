"""When ingest actors come and go."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_swav.commands.options import merged_config
from online_swav.config import ElasticConfig, RunConfig
from online_swav.elastic import IngestScaler
from streams.config import IngestConfig

CONFIG = ElasticConfig(add_above_wait=0.2, remove_above_backlog=0.9, cooldown_s=10.0)


def drive(scaler, actors, seconds, *, wait, backlog, start=0.0):
    """Ask once a second; the decisions with their seconds."""
    decisions = []
    for second in range(seconds):
        decision = scaler.decide(actors, wait_ratio=wait, backlog_ratio=backlog, now=start + second)
        actors += {"add": 1, "remove": -1, None: 0}[decision]
        if decision:
            decisions.append((second, decision))
    return decisions, actors


def test_actors_are_added_while_the_learner_waits_up_to_the_most():
    decisions, actors = drive(IngestScaler(1, 3, CONFIG), 1, 60, wait=0.5, backlog=0.0)
    assert decisions == [(10, "add"), (20, "add")]
    assert actors == 3


def test_actors_are_removed_while_they_are_ahead_down_to_the_least():
    decisions, actors = drive(IngestScaler(2, 4, CONFIG), 4, 60, wait=0.0, backlog=1.0)
    assert decisions == [(10, "remove"), (20, "remove")]
    assert actors == 2


def test_a_short_wait_is_no_reason():
    scaler = IngestScaler(1, 3, CONFIG)
    drive(scaler, 1, 20, wait=0.0, backlog=0.5)
    assert drive(scaler, 1, 1, wait=0.5, backlog=0.0, start=20)[0] == []


def test_a_removal_that_was_taken_back_is_tried_again_later():
    """One actor too few, two too many: the pauses before a removal grow."""
    scaler, actors, removals = IngestScaler(1, 2, CONFIG), 2, []
    for second in range(400):
        starved = actors == 1
        decision = scaler.decide(
            actors, wait_ratio=0.6 * starved, backlog_ratio=1.0 - starved, now=float(second)
        )
        actors += {"add": 1, "remove": -1, None: 0}[decision]
        if decision == "remove":
            removals.append(second)
    pauses = [b - a for a, b in itertools.pairwise(removals)]
    assert len(pauses) >= 2
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 1.5 * pauses[0]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 5)), max_size=60))
def test_the_bounds_and_the_cooldown_always_hold(reports):
    scaler, actors, now, last = IngestScaler(1, 3, CONFIG), 2, 0.0, float("-inf")
    for wait, backlog, seconds in reports:
        now += seconds
        decision = scaler.decide(actors, wait_ratio=wait, backlog_ratio=backlog, now=now)
        actors += {"add": 1, "remove": -1, None: 0}[decision]
        assert 1 <= actors <= 3
        if decision:
            assert now - last >= CONFIG.cooldown_s
            last = now


def test_ranges_on_the_command_line():
    config, _ = merged_config(["--learners", "1:4", "--ingest=2:8"], "train")
    assert (config.learners, config.max_learners) == (1, 4)
    assert (config.ingest.actors, config.ingest.max_actors) == (2, 8)
    config, _ = merged_config(["--learners", "3", "--ingest", "2"], "train")
    assert (config.learners, config.max_learners) == (3, None)
    assert (config.ingest.actors, config.ingest.max_actors) == (2, None)


def test_the_most_must_not_be_less_than_the_fewest():
    with pytest.raises(ValueError, match="max_learners must be at least learners, got 2 and 3"):
        RunConfig(learners=3, max_learners=2)
    with pytest.raises(ValueError, match="max_actors must be at least actors"):
        dataclasses.replace(IngestConfig(), actors=3, max_actors=1)
    with pytest.raises(ValueError, match="add_above_wait"):
        ElasticConfig(add_above_wait=0.0)
