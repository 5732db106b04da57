"""A shard whose decoding kills the process: quarantined after three readers; the rest goes on."""

import os
import sqlite3
import urllib.request
from contextlib import closing

import pytest
from prometheus_client.parser import text_string_to_metric_families

from online_swav.testing import judge_lineage
from streams.pack import write_shard
from streams.testing import jpeg_bytes, write_test_shards

pytestmark = [pytest.mark.ray, pytest.mark.timeout(310)]

MARK = b"kills its reader"

# Python imports this in every process of the run: what a crash inside libjpeg would be.
SITECUSTOMIZE = f"""
import importlib.util, os, resource, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name != "streams.ingest":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader.exec_module = self.wrap(spec.loader.exec_module)
        return spec

    def wrap(self, exec_module):
        def run(module):
            exec_module(module)
            module.decode_image = killing(module.decode_image)
        return run

def killing(decode_image):
    def decode(data, limits, **options):
        if {MARK!r} in data:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.abort()
        return decode_image(data, limits, **options)
    return decode

sys.meta_path.insert(0, Finder())
"""


def get(run, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{run.port}{path}", timeout=5) as answer:
        return answer.status, answer.read().decode()


def quarantined(run):
    """Shards that Prometheus sees as quarantined; 0 before the server is up."""
    try:
        _, text = get(run, "/metrics")
    except OSError:
        return 0
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "online_swav_shards" and sample.labels["state"] == "quarantined"
    )


def test_a_shard_that_kills_three_readers_is_quarantined(run, tmp_path):
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(SITECUSTOMIZE)
    poison = [(f"{i}", {"jpg": jpeg_bytes(i) + (MARK if i == 1 else b"")}) for i in range(3)]
    write_shard(run.source / "a-poison.tar", poison)
    write_test_shards(run.source, shards=3, samples_per_shard=30)

    path = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(hook), *([path] if path else [])])
    run.start("--when-idle", "stop", PYTHONPATH=path)
    run.wait_until(lambda: quarantined(run) == 1, seconds=200)
    assert get(run, "/healthz")[0] == 200, "one bad shard does not make the run ill"
    assert run.process.wait(timeout=100) == 0, run.output()[-4000:]

    assert run.verify() == []
    assert run.status()["ingest_restarts"] == 3
    with closing(sqlite3.connect(run.folder / "ledger.sqlite")) as db:
        shards = db.execute("SELECT url, state, trained, fault FROM shards ORDER BY url").fetchall()
    (_, state, poisoned, fault), *good = shards
    assert (state, fault) == ("quarantined", "killed 3 readers")
    assert poisoned <= 2
    assert [row[1:] for row in good] == [("done", 30, None)] * 3
    assert "fault='killed 3 readers'" in run.output()
    report = judge_lineage(run.folder)
    assert (report.trained, report.rolled_back) == (90 + poisoned, 0)
    assert (report.lost, report.double, report.stray) == (0, 0, 0)
