"""The whole system on a real Ray: arrival, damage, kill -9, resume, orderly stop, totals."""

import json
import signal
import time
import urllib.error
import urllib.request

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.testing import truncate, write_test_shards

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]


def get(run, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{run.port}{path}", timeout=5) as answer:
        return answer.status, answer.read().decode()


def test_kill_everything_resume_and_every_sample_has_one_fate(run):
    write_test_shards(run.source, shards=3, samples_per_shard=40, seed=0)
    (run.source / "text.tar").write_text("this is no tar\n" * 100)
    patient = ("--budget.max-bad-share", "0.5")  # a sixth of this small source is no tar
    run.start(*patient)
    run.wait_until(lambda: run.step() >= 6)

    status, text = get(run, "/metrics")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert status == 200
    assert {"online_swav_loss_ratio", "online_swav_learner_up"} <= names
    assert get(run, "/healthz")[0] == 200
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(run, "/nothing")

    # A shard that arrives while it trains, one that is cut, and one with bad pictures.
    late = run.source.parent / "late"
    late.mkdir()
    (good, cut) = write_test_shards(late, shards=2, samples_per_shard=40, seed=1)
    truncate(cut, cut.stat().st_size // 2)
    for path in (good, cut):
        path.rename(run.source / f"late-{path.name}")
    run.wait_until(lambda: sum(run.books().shards.values()) == 6)
    run.kill_tree()
    assert run.verify() == []

    # Nothing of the dead run may matter: the same command goes on.
    run.finish(*patient)
    counts = run.books()
    assert counts.shards["done"] == 5
    assert counts.shards["quarantined"] == 1
    assert counts.trained >= 160
    assert counts.dropped["truncated"] == 1
    run.assert_exactly_once(counts.trained)
    assert "resumed step=" in run.output()
    shards = [json.loads(line) for line in
              (run.folder / "quarantine" / "shards.jsonl").read_text().splitlines()]  # fmt: skip
    assert {"text.tar", f"late-{cut.name}"} == {line["url"].rsplit("/", 1)[1] for line in shards}


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.chaos)]
)
def test_a_stop_finishes_the_step_and_leaves_no_process(run, number):
    write_test_shards(run.source, shards=2, samples_per_shard=200, seed=0)
    run.start()
    run.wait_until(lambda: run.step() >= 2)
    processes = run.tree()
    assert run.stop(number) == 0, run.output()[-4000:]
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert alive == []
    counts = run.books()
    assert counts.uncommitted == 0, "the last checkpoint holds every trained image"
    assert counts.trained == 16 * run.status()["learner"]["step"]
    assert run.status()["state"] == "stopped"


def test_a_killed_reader_is_replaced_and_nothing_is_lost(run):
    write_test_shards(run.source, shards=3, samples_per_shard=60, seed=0)
    run.start()
    run.wait_until(lambda: run.step() >= 2)
    (reader,) = run.processes("IngestActor")
    reader.kill()
    run.wait_until(lambda: run.status()["ingest_restarts"] >= 1)
    assert run.stop() == 0
    run.finish()
    run.assert_exactly_once(180)


def test_a_killed_rank_of_two_resumes_from_the_checkpoint(run):
    write_test_shards(run.source, shards=4, samples_per_shard=80, seed=0)
    run.start("--learners", "2", "--ingest", "2", "--when-idle", "stop",
              SWAV_DIE_AT="after_step:7", SWAV_DIE_RANK="1")  # fmt: skip
    assert run.process.wait(timeout=200) == 0, run.output()[-4000:]
    assert run.assert_exactly_once(320).rolled_back >= 32
    assert run.status()["learner_restarts"] == 1
    assert run.status()["learner"]["ranks"] == 2


@pytest.mark.chaos  # in the default run: in one process, test_in_process.py
def test_replay_is_counted_apart(run):
    write_test_shards(run.source, shards=2, samples_per_shard=30, seed=0)
    run.start("--when-idle", "replay", "--stop-after-samples", "150")
    assert run.process.wait(timeout=120) == 0, run.output()[-4000:]
    counts = run.books()
    assert counts.trained == 60
    assert counts.trained + counts.replayed == run.status()["learner"]["samples_seen"]
    assert run.verify() == []


@pytest.mark.chaos  # in the default run: the source alone, test_sources.py
def test_a_half_written_shard_is_not_touched(run):
    (whole,) = write_test_shards(run.source.parent, shards=1, samples_per_shard=40, seed=0)
    data = whole.read_bytes()
    run.start()
    growing = run.source / "growing.tar"
    with growing.open("wb") as file:
        for part in range(10):
            file.write(data[part * len(data) // 10 : (part + 1) * len(data) // 10])
            file.flush()
            time.sleep(0.5)
    run.wait_until(lambda: run.books().trained >= 32)
    assert run.stop() == 0
    assert sum(run.books().shards.values()) == 1


def test_a_bad_source_is_paused_and_a_person_tries_it_again(run, capsys):
    from online_swav.books import totals
    from online_swav.cli import main

    bad = run.source.parent / "bad"
    write_test_shards(bad, shards=9, samples_per_shard=20, size=(4, 4))  # too small to be used
    write_test_shards(run.source, shards=2, samples_per_shard=20, seed=1)
    run.start("--source", f"bad={bad}", "--budget.min-samples", "20", "--budget.retry-s", "3600")
    run.wait_until(lambda: run.books().trained >= 32 and totals(run.folder)["bad"].paused)
    # What was being read at that moment is still told.
    run.wait_until(lambda: not totals(run.folder)["bad"].shards["leased"])
    dropped = totals(run.folder)["bad"].dropped["too_small"]
    assert dropped < 180, "the rest of the source is left alone"

    def reasons():
        try:
            return get(run, "/healthz")[0]
        except urllib.error.HTTPError as error:
            with error:
                return json.loads(error.read())["reasons"]

    run.wait_until(lambda: reasons() != 200)
    (reason,) = reasons()
    assert reason.startswith("source bad is paused: ")
    write_test_shards(run.source.parent / "late", shards=2, samples_per_shard=20, seed=2)
    for path in (run.source.parent / "late").iterdir():
        path.rename(run.source / f"late-{path.name}")
    run.wait_until(lambda: run.books().trained >= 64)  # the other source goes on
    assert totals(run.folder)["bad"].dropped["too_small"] == dropped

    assert main(["quarantine", "retry", "--run", str(run.folder), "--source", "bad"]) == 0
    printed = capsys.readouterr().out
    assert "the run goes on: it applies this at its next listing" in printed
    assert "source bad is released" in printed
    run.wait_until(lambda: totals(run.folder)["bad"].dropped["too_small"] > dropped)
    assert run.stop() == 0
    assert "source bad is paused, " in run.output()
    assert run.verify() == []
