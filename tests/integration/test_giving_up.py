"""A run that cannot learn, on a real Ray: it goes back, gives up (exit code 3), may go on."""

import json
import urllib.error
import urllib.request
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from online_swav.events import read_events
from streams.testing import write_test_shards

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(280)]

HOPELESS = (
    "--learner.optim.lr", "1e30", "--learner.schedule.warmup-steps", "0",
    "--learner.health.max-nonfinite-steps", "3", "--when-idle", "replay",
)  # fmt: skip


def actions(run):
    return Counter(e["kind"] for e in read_events(run.folder) if e["event"] == "action")


def test_two_learners_go_back_together_give_up_and_go_on_with_another_rate(run):
    write_test_shards(run.source, shards=2, samples_per_shard=40)
    two = ("--learners", "2")
    run.start(*HOPELESS, *two)
    assert run.process.wait(timeout=200) == 3
    told = run.output()
    assert "given up at step" in told
    assert "The run went back 3 times" in told
    assert "start the same command with --change" in told
    assert "Traceback" not in told
    kinds = actions(run)
    assert (kinds["rollback"], kinds["give_up"]) == (3, 1)
    assert run.verify() == []

    run.start(*HOPELESS, *two, "--learner.optim.lr", "0.05")
    assert run.process.wait(timeout=60) == 2, "only with --change"
    mended = ("--learner.optim.lr", "0.05", "--learner.schedule.warmup-steps", "0")
    run.finish(*two, *mended, "--change")
    assert json.loads((run.folder / "remedies.json").read_text())["adjustments"]["lr_factor"] == 1
    run.assert_exactly_once(80)


def test_a_run_that_holds_answers_until_it_is_stopped(run):
    write_test_shards(run.source, shards=2, samples_per_shard=40)
    run.start(*HOPELESS, "--act.max-rollbacks", "0", "--act.when-given-up", "hold")
    run.wait_until(lambda: "holding: given up at step" in run.output())
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(f"http://127.0.0.1:{run.port}/healthz", timeout=5)
    assert answer.value.code == 503
    assert "given up at step" in json.loads(answer.value.read())["reasons"][0]
    with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/metrics", timeout=5) as page:
        families = text_string_to_metric_families(page.read().decode())
        counted = {
            sample.labels["kind"]: sample.value
            for family in families for sample in family.samples
            if sample.name == "online_swav_actions_total"
        }  # fmt: skip
    assert counted["give_up"] == 1
    assert counted["rollback"] == 0
    assert run.stop() == 3
