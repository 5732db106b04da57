"""Which step trained which image, and never again: the commands against an independent log."""

import dataclasses
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from online_swav.cli import main
from online_swav.config import CheckpointConfig, to_yaml
from online_swav.inprocess import RecordingDesk, train_in_process
from online_swav.testing import judge_lineage, lineage_log, surviving_lineage
from streams.shard import SampleId
from streams.testing import shard_of

OBSERVED = "online_swav.testing:LineageRecorder"


@pytest.fixture(scope="module")
def trained_once(module_config):
    """90 images in 12 steps, a crash after step 6 in between, checkpoints every 4, all kept."""
    config = dataclasses.replace(
        module_config, observer=OBSERVED, checkpoint=CheckpointConfig(every_steps=4, keep=9)
    )

    class Crash(Exception):
        pass

    def crash(status):
        if status.step >= 6:
            raise Crash

    with pytest.raises(Crash):
        train_in_process(
            dataclasses.replace(config, report_every_s=1e-9), RecordingDesk(on_report=crash)
        )
    (Path(config.run) / "config.yaml").write_text(to_yaml(config))
    train_in_process(config, RecordingDesk())
    return config


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of that run, and its config."""
    run = tmp_path / "run"
    shutil.copytree(trained_once.run, run)
    shutil.copy(lineage_log(Path(trained_once.run)), lineage_log(run))
    return run, dataclasses.replace(trained_once, run=str(run))


@pytest.fixture
def shards(trained_once):
    return sorted((Path(trained_once.run).parent / "in").glob("*.tar"))


def ask(capsys, *arguments):
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


def logged(run):
    """(step, shard id, index, pass) of the surviving weights, from the observer's log."""
    steps = surviving_lineage(lineage_log(run))
    return {(step, *identity) for step, ids in steps.items() for identity in ids}


def test_which_samples_equals_the_log_of_the_observer(trained, shards, capsys):
    run, _ = trained
    ids = {str(path): shard_of(path).id for path in shards}
    out = ask(capsys, "ledger", "which-samples", "--run", run, "--steps", "3:9", "--json")
    found = [(t["step"], ids[t["shard"]], t["index"], t["pass_number"]) for t in json.loads(out)]
    assert len(found) == len(set(found))
    assert set(found) == {entry for entry in logged(run) if 3 <= entry[0] <= 9}
    table = ask(capsys, "ledger", "which-samples", "--run", run, "--steps", "3:9").splitlines()
    assert table[0] == "step\trank\tpass\tindex\tshard"
    assert len(table) == len(found) + 1


def test_which_steps_finds_a_shard_by_path_name_and_id(trained, shards, capsys):
    run, _ = trained
    path = shards[1]
    expected = {(s, i) for s, shard, i, _ in logged(run) if shard == shard_of(path).id}
    for name in (path, path.name, shard_of(path).id):
        out = ask(capsys, "ledger", "which-steps", "--run", run, "--shard", name, "--json")
        assert {(t["step"], t["index"]) for t in json.loads(out)} == expected
    (step,) = {s for s, i in expected if i == 7}
    text = ask(capsys, "ledger", "which-steps", "--run", run, "--shard", path, "--index", 7)
    assert f"step {step}, rank 0: trained, 1 images (index 7)" in text
    assert "done, 30 trained, 0 dropped" in text


def test_what_is_not_committed_is_marked(config, tmp_path, capsys):
    """Claims above the newest checkpoint are answered too."""
    config = dataclasses.replace(config, stop_after_steps=3)
    train_in_process(config, RecordingDesk())
    run = tmp_path / "run"
    (run / "config.yaml").write_text("{}")
    from streams.ledger import Ledger
    from streams.shard import Origin

    ledger = Ledger(run / "ledger.sqlite")
    generation = ledger.generation
    lease = ledger.lease("w", generation=generation)
    free = max(stop for _, stop in lease.skip) if lease.skip else 0
    origin = Origin(SampleId(lease.shard.id, free), lease.pass_number, lease.token)
    assert ledger.claim([origin], generation=generation, rank=0, step=4) == [True]
    ledger.close()
    text = ask(capsys, "ledger", "which-steps", "--run", run, "--shard", lease.shard.id)
    assert "step 4, rank 0: trained, 1 images" in text
    assert text.count("since the newest checkpoint") == 1


def test_checkpoints_that_have_never_seen_a_shard(trained, shards, capsys):
    run, _ = trained
    entries = logged(run)
    for path in shards:
        first = min(s for s, shard, _, _ in entries if shard == shard_of(path).id)
        out = ask(capsys, "ledger", "checkpoints", "--run", run, "--without", path, "--json")
        assert [c["step"] for c in json.loads(out)] == [s for s in (4, 8, 12) if s < first]
    everything = ask(capsys, "ledger", "checkpoints", "--run", run)
    assert [line.split()[1] for line in everything.splitlines()] == ["4", "8", "12"]


def test_skipped_steps_are_not_trained_again(trained, capsys):
    run, config = trained
    unwanted = {(shard, i) for s, shard, i, _ in logged(run) if 5 <= s <= 6}
    out = ask(capsys, "ledger", "skip", "--run", run, "--steps", "5:6")
    assert f"{len(unwanted)} samples are newly ruled out, of {len(unwanted)}" in out
    again = dataclasses.replace(config, when_idle="replay", stop_after_samples=90 + 60)
    train_in_process(again, RecordingDesk())
    replayed = {(shard, i) for _, shard, i, p in logged(run) if p > 0}
    assert len(replayed) >= 60
    assert not replayed & unwanted
    assert "ruled out by a person: 0 shards, 16 single samples" in ask(
        capsys, "ledger", "verify", "--run", run
    )
    report = judge_lineage(run)
    assert (report.double, report.stray) == (0, 0)


def test_going_back_before_skipped_steps_trains_the_rest_alone(trained, capsys):
    """The take-down of what steps 9 to 12 saw: skip them, remove their checkpoints, go on."""
    run, config = trained
    unwanted = {(shard, i) for s, shard, i, _ in logged(run) if s >= 9}
    kept = {(shard, i) for s, shard, i, _ in logged(run) if s <= 8}
    # Folding allows this: every checkpoint is still on disk.
    ask(capsys, "ledger", "skip", "--run", run, "--steps", "9:12")
    shutil.rmtree(run / "checkpoints" / "step-000000012")
    train_in_process(config, RecordingDesk())
    counts = json.loads(ask(capsys, "ledger", "--run", run, "--json"))["s"]
    assert (counts["trained"], counts["dropped"]["skipped"]) == (len(kept), len(unwanted))
    assert counts["samples_known"] == 90
    assert "every invariant" in ask(capsys, "ledger", "verify", "--run", run)


def test_a_skipped_shard_is_left_out(config, tmp_path, capsys):
    train_in_process(dataclasses.replace(config, stop_after_steps=1), RecordingDesk())
    run = tmp_path / "run"
    (run / "config.yaml").write_text("{}")
    out = ask(capsys, "ledger", "skip", "--run", run, "--shard", "shard-000002.tar")
    assert "1 of 1 shards are ruled out" in out
    train_in_process(dataclasses.replace(config, observer=None), RecordingDesk())
    counts = json.loads(ask(capsys, "ledger", "--run", run, "--json"))["s"]
    assert counts["shards"]["quarantined"] == 1
    assert counts["trained"] == 60
    assert "ruled out by a person: 1 shards" in ask(capsys, "ledger", "--run", run)
    assert "0 shards cannot be read" in ask(capsys, "quarantine", "list", "--run", run)


def test_the_quarantine_is_listed_retried_and_discarded(config, tmp_path, capsys):
    (tmp_path / "in" / "page.tar").write_bytes(b"<html>" + bytes(2048))
    small = dataclasses.replace(config.ingest.limits, min_side=49)  # pictures have 48 pixels
    strict = dataclasses.replace(config, ingest=dataclasses.replace(config.ingest, limits=small))
    train_in_process(strict, RecordingDesk())
    run = tmp_path / "run"
    (run / "config.yaml").write_text("{}")
    listed = ask(capsys, "quarantine", "list", "--run", run)
    assert "1 shards cannot be read" in listed
    assert "HTML" in listed
    assert "90 samples, 90 too_small" in listed
    out = ask(capsys, "quarantine", "retry", "--run", run, "--reason", "too_small")
    assert "90 samples are offered again, in 1 new shards" in out
    train_in_process(config, RecordingDesk())
    counts = json.loads(ask(capsys, "ledger", "--run", run, "--json"))["s"]
    assert (counts["trained"], counts["dropped"]["too_small"]) == (90, 90)
    out = ask(capsys, "quarantine", "discard", "--run", run, "--all")
    assert "1 of 1 shards are ruled out" in out
    listed = ask(capsys, "quarantine", "list", "--run", run)
    assert "0 shards cannot be read" in listed
    assert "0 samples" in listed
    assert "every invariant" in ask(capsys, "ledger", "verify", "--run", run)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("ledger which-steps --shard nowhere.tar", "knows no such shard"),
        ("ledger which-steps --shard %.tar", "knows no such shard"),
        ("ledger skip", "needs either --shard SHARD or --steps A:B"),
        ("ledger skip --steps 90:95", "have no such step"),
        ("quarantine retry", "needs --all"),
        ("quarantine list --source nope", "the book knows s"),
        ("quarantine list --reason nope", "the reasons are truncated"),
    ],
)
def test_mistakes_are_explained(trained, capsys, arguments, expected):
    run, _ = trained
    assert main([*arguments.split(), "--run", str(run)]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ledger", "ledger which-steps --shard x", "quarantine list"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [("UPDATE meta SET value = 1 WHERE name = 'format'", "has format 1, this version reads"),
     ("DROP TABLE shards", "cannot be read (no such table"),
     (None, "cannot be read (file is not a database)")],
)  # fmt: skip
def test_a_book_that_cannot_be_read_is_no_traceback(trained, capsys, command, damage, expected):
    run, _ = trained
    path = run / "ledger.sqlite"
    if damage is None:
        path.write_bytes(b"no book" * 1000)
    else:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(damage)
    assert main([*command.split(), "--run", str(run)]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("steps", ["5", "6:5", "a:b", ":", "-1:4"])
def test_a_range_of_steps_is_checked(trained, capsys, steps):
    run, _ = trained
    with pytest.raises(SystemExit):
        main(["ledger", "which-samples", "--run", str(run), f"--steps={steps}"])
    assert "write A:B with A <= B" in capsys.readouterr().err
