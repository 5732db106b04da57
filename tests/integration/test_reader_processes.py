"""Several readers without Ray: every image once, whoever dies, and nobody is left behind."""

import collections
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from online_swav.books import totals, verify
from online_swav.config import to_yaml
from online_swav.inprocess import RecordingDesk, train_in_process
from streams.errors import LedgerError, ReaderError
from streams.ledger import Ledger
from streams.pack import write_shard
from streams.reader_processes import Readers
from streams.reader_worker import ReaderConfig
from streams.testing import jpeg_bytes, shard_of

REPOSITORY = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
from online_swav.config import RunConfig, load_yaml
from online_swav.inprocess import RecordingDesk, train_in_process
{guard}
    train_in_process(load_yaml(Path(sys.argv[1]), RunConfig()), RecordingDesk())
"""


@pytest.fixture
def two_readers(config):
    ingest = dataclasses.replace(config.ingest, actors=2, open_shards=1)
    return dataclasses.replace(config, ingest=ingest, report_every_s=1e-9)


def readers():
    return [child for child in multiprocessing.active_children() if "reader-" in child.name]


def assert_every_image_once(run):
    counts = totals(run)["s"]
    assert (counts.trained, counts.samples_known, counts.uncommitted) == (90, 90, 0)
    assert verify(run) == []


def test_two_readers_deliver_every_image_once_and_end_with_the_run(two_readers, tmp_path):
    seen = set()
    desk = RecordingDesk(on_report=lambda _status: seen.add(len(readers())))
    assert "stream has ended" in train_in_process(two_readers, desk)
    assert_every_image_once(tmp_path / "run")
    assert seen == {2}
    assert readers() == []


@pytest.mark.parametrize("victims", [1, 2])
def test_a_killed_reader_is_replaced_and_loses_nothing(two_readers, tmp_path, caplog, victims):
    killed = []

    def kill(status):
        if status.step >= 2 and not killed:
            killed.extend(reader.pid for reader in readers()[:victims])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    train_in_process(two_readers, RecordingDesk(on_report=kill))
    assert_every_image_once(tmp_path / "run")
    assert caplog.text.count("ingest_died worker=reader-") == victims


def test_a_reader_that_dies_again_and_again_costs_its_shards_and_not_the_run(
    two_readers, tmp_path, monkeypatch
):
    """Each new reader is killed once it has leased a shard; after `max_attempts` it is given up."""
    lease = Ledger.lease

    def deadly(ledger, worker, *, generation):
        found = lease(ledger, worker, generation=generation)
        if found is not None and found.shard.url.endswith("shard-000001.tar"):
            (victim,) = (reader for reader in readers() if reader.name == worker)
            os.kill(victim.pid, signal.SIGKILL)
        return found

    monkeypatch.setattr(Ledger, "lease", deadly)
    train_in_process(two_readers, RecordingDesk())
    counts = totals(tmp_path / "run")["s"]
    assert (counts.shards["done"], counts.shards["quarantined"]) == (2, 1)
    assert verify(tmp_path / "run") == []


def start(config, tmp_path, guard):
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "script.py").write_text(SCRIPT.format(guard=guard))
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "config.yaml")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_nobody_outlives_a_killed_run(two_readers, tmp_path):
    endless = dataclasses.replace(two_readers, when_idle="wait")
    run = start(endless, tmp_path, guard='if __name__ == "__main__":')
    children = []
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoints" / "latest").exists():
        assert time.monotonic() < deadline
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) >= 3, "a fork server and two readers"
    run.kill()
    run.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_a_script_without_a_main_guard_is_told_so(two_readers, tmp_path):
    run = start(two_readers, tmp_path, guard="if True:")
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert 'needs `if __name__ == "__main__":`' in errors.splitlines()[-1]


def told(config, tmp_path):
    return ReaderConfig(families=config.crops, ingest=config.ingest, generation=0, seed=0,
                        quarantine=tmp_path / "quarantine")  # fmt: skip


@pytest.mark.parametrize("actors", [1, 2])
def test_a_batch_tells_of_its_images_across_the_pipe(two_readers, tmp_path, actors):
    """What each cost, and that each shard holds its ten pictures twice."""
    (tmp_path / "twice").mkdir()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for shard in range(2):
        path = tmp_path / "twice" / f"{shard}.tar"
        pictures = [jpeg_bytes(10 * shard + number) for number in range(10)] * 2
        write_shard(path, [(str(i), {"jpg": data}) for i, data in enumerate(pictures)])
        ledger.add([shard_of(path)])
    ingest = dataclasses.replace(two_readers.ingest, actors=actors, batch_size=8)
    ahead = Readers(ledger, told(dataclasses.replace(two_readers, ingest=ingest), tmp_path))
    costs, flagged, deadline = [], collections.Counter(), time.monotonic() + 60
    try:
        while len(costs) < 40:
            assert time.monotonic() < deadline
            batch = ahead.next_batch(flush=True)
            if batch is None:
                continue
            costs += batch.decode_s
            for origin, flag in zip(batch.origins, batch.near_duplicates, strict=True):
                flagged[origin.sample.shard_id, origin.sample.index % 10] += flag
    finally:
        ahead.close()
        ledger.close()
    assert len(costs) == 40
    assert min(costs) > 0
    assert list(flagged.values()) == [1] * 20


@pytest.mark.parametrize("actors", [1, 2])
def test_an_error_of_the_ledger_ends_the_run_in_its_own_words(
    two_readers, tmp_path, monkeypatch, actors
):
    def refuse(*_, **__):
        raise LedgerError("no room")

    monkeypatch.setattr(Ledger, "lease", refuse)
    ingest = dataclasses.replace(two_readers.ingest, actors=actors)
    with pytest.raises(LedgerError, match="no room"):
        train_in_process(dataclasses.replace(two_readers, ingest=ingest), RecordingDesk())
    assert readers() == []


@pytest.mark.parametrize("actors", [1, 2])
def test_an_error_is_not_lost_while_the_learner_is_busy(two_readers, tmp_path, monkeypatch, actors):
    """By the time it looks, the reader has told its error and is gone."""

    def refuse(*_, **__):
        time.sleep(0.5)  # more than `next_batch` waits
        raise LedgerError("no room")

    def batches_of_a_busy_learner():
        for _ in range(20):
            ahead.next_batch(flush=False)
            time.sleep(1)

    monkeypatch.setattr(Ledger, "lease", refuse)
    ingest = dataclasses.replace(two_readers.ingest, actors=actors)
    readers_config = told(dataclasses.replace(two_readers, ingest=ingest), tmp_path)
    ahead = Readers(Ledger(tmp_path / "ledger.sqlite"), readers_config)
    try:
        with pytest.raises(LedgerError, match="no room"):
            batches_of_a_busy_learner()
    finally:
        ahead.close()


def test_too_little_shared_memory_is_one_line(two_readers, tmp_path, monkeypatch):
    def full(_tensor):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr("torch.Tensor.share_memory_", full)
    with pytest.raises(
        ReaderError, match=r"2 readers need 0.0 GB of shared memory .* lower ingest"
    ):
        Readers(Ledger(tmp_path / "ledger.sqlite"), told(two_readers, tmp_path))
