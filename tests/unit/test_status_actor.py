"""The status actor without Ray: what it writes into the story."""

import pytest

from online_swav import status_actor
from online_swav.config import RunConfig
from online_swav.events import read_events
from online_swav.report.events import Event
from online_swav.report.story import entries
from online_swav.status_actor import StatusActor


@pytest.fixture
def actor(tmp_path, monkeypatch):
    monkeypatch.setattr(status_actor, "POLL_S", 3600.0)  # it asks no ledger here
    found = StatusActor(RunConfig(run=str(tmp_path)), config_digest="", set_up=lambda: None)
    yield found
    found._closed.set()


def introduce(actor, readers, restarts):
    actor.introduce("ledger", readers=readers, version=restarts, restarts=restarts, added=0,
                    removed=0)  # fmt: skip


def test_a_reader_that_died_is_an_event(actor, tmp_path):
    introduce(actor, {"ingest-000": "a", "ingest-001": "b"}, restarts=0)
    introduce(actor, {"ingest-000": "a", "ingest-001": "b", "ingest-002": "c"}, restarts=0)
    assert list(read_events(tmp_path)) == [], "added ones have not died"
    introduce(actor, {"ingest-000": "a", "ingest-001": "d", "ingest-002": "c"}, restarts=1)
    introduce(actor, {"ingest-000": "a", "ingest-001": "d", "ingest-002": "c"}, restarts=1)
    (event,) = read_events(tmp_path)
    assert (event["event"], event["component"]) == ("restarted", "ingest")
    (entry,) = entries([Event(event["at"], event["event"], event)])
    assert (entry.title, entry.detail) == ("Restarted: ingest", "ingest-001 died, or hung")
    assert actor.snapshot().ingest_restarts == 1


def test_deaths_before_its_own_restart_are_old_news(actor, tmp_path):
    introduce(actor, {"ingest-000": "a"}, restarts=5)
    assert list(read_events(tmp_path)) == []
