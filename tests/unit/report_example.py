"""A run folder with something for every section of the report, made by hand in about a second."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
from status_example import FINDING, learner, status

from online_swav.checkpoint import Checkpoints
from online_swav.config import CheckpointConfig, RunConfig, to_yaml
from online_swav.console import status_json
from online_swav.events import events_path
from online_swav.history import history_path
from online_swav.learning.config import LearnerConfig, ModelConfig
from online_swav.learning.findings import Health
from online_swav.learning.model import SwavModel
from online_swav.status import ProbeStatus
from streams.config import CropFamily
from streams.ledger import Ledger
from streams.ledger_delta import Delta
from streams.quarantine import Quarantine
from streams.shard import Origin, SampleId, Shard
from streams.synthetic import encode, render, write_synthetic_shard

HOSTILE = "<script>alert(1)</script>\"'&$x^2$"
BEGAN = 1_790_000_000.0
"""When the run was started, unix seconds."""
LASTED_S = 7200
MODEL = ModelConfig(
    backbone="shufflenet_v2_x0_5", hidden_dim=16, embedding_dim=8, num_prototypes=12
)


def config(folder, **over):
    """A tiny recipe; its shards lie beside the run folder."""
    return RunConfig(
        run=str(folder), source=(f"cam={folder.parent / 'shards'}",),
        crops=(CropFamily(size=32, num=2, scale=(0.3, 1.0)),
               CropFamily(size=16, num=2, scale=(0.1, 0.3))),
        learner=LearnerConfig(model=MODEL), checkpoint=CheckpointConfig(keep=3), **over,
    )  # fmt: skip


def make_empty_run(folder, **over):
    """What `train` leaves before anything else: the config."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config(folder, **over)))
    return folder


def make_run(folder):
    """A run of two hours that fell once and helped itself, with hostile names in it."""
    make_empty_run(folder)
    add_shards(folder)
    add_checkpoints(folder)
    add_history(folder)
    add_events(folder)
    add_status(folder)
    add_quarantine(folder)
    return folder


def add_shards(folder, *, samples=20):
    """Two shards, and a book in which one is done and the other is being read."""
    shards = folder.parent / "shards"
    shards.mkdir(exist_ok=True)
    book = Ledger(folder / "ledger.sqlite")
    for number in range(2):
        path = shards / f"s{number}.tar"
        write_synthetic_shard(path, num_samples=samples, seed=0, shard_index=number, size=40)
        book.add([Shard(url=str(path), size_bytes=path.stat().st_size, fingerprint=f"x-{number}",
                        discovered_at=BEGAN, source="cam")])  # fmt: skip
    generation = book.begin(0)
    for number in range(2):
        lease = book.lease("reader", generation=generation)
        book.claim([Origin(SampleId(lease.shard.id, i), 0, lease.token) for i in range(18)],
                   generation=generation, rank=0, step=1 + number)  # fmt: skip
        if number == 0:
            book.reject(lease, index=18, reason="corrupt")
            book.finish(lease, num_samples=19, fault=None)
    book.close()


def add_checkpoints(folder, steps=(500, 1000)):
    """Weights of a fresh model; the later ones have moved prototypes."""
    import torch

    torch.manual_seed(0)
    model = SwavModel(backbone=MODEL.backbone, small_stem=False, hidden_dim=MODEL.hidden_dim,
                      embedding_dim=MODEL.embedding_dim,
                      num_prototypes=MODEL.num_prototypes)  # fmt: skip
    checkpoints = Checkpoints(folder, keep=3)
    checkpoints.fence(1, resumed=None)
    for number, step in enumerate(steps):
        with torch.no_grad():
            model.prototypes.weight.copy_(torch.randn_like(model.prototypes.weight))
            model.normalize_prototypes()
        checkpoints.publish(
            step=step, samples_seen=step * 64, parent_step=steps[number - 1] if number else -1,
            created_at=BEGAN + 3600 * (number + 1), verdict="ok",
            probes=tuple(dataclasses.asdict(probe) for probe in probes()),
            learner_state={"model": model.state_dict()}, config_yaml="", generation=1,
            delta=Delta(step=step, parent_step=-1, version=step, shards=(), claims=(), rejects=(),
                        skips=()),
        )  # fmt: skip


def probes():
    """Two results of the probe."""
    return (ProbeStatus(step=0, measured_at=BEGAN + 1, knn_accuracy=0.3),
            ProbeStatus(step=1000, measured_at=BEGAN + 7000, knn_accuracy=0.48))  # fmt: skip


def history_rows():
    """A row every ten seconds, with a gap in the middle."""
    for i in range(0, LASTED_S, 10):
        if 3000 < i < 3900:
            continue
        share = i / LASTED_S
        yield {
            "at": BEGAN + i, "generation": 1, "step": int(1000 * share), "samples_seen": 64 * i,
            "verdict": "degraded" if 0.6 < share < 0.7 else "ok", "images_per_s": 300.0,
            "wait_ratio": 0.1, "loss_ratio": 0.5 + 0.5 * math.exp(-5 * share), "grad_norm": 1.5,
            "lr": 0.1, "effective_rank": 30 * share + 2, "feature_rank": 90 * share + 2,
            "usage_perplexity_ratio": 0.4 + 0.4 * share, "dead_prototype_ratio": 0.1,
            "view_agreement_ratio": 0.5, "code_entropy_ratio": 0.3, "embedding_std_ratio": 0.9,
            "lag_s": 60.0, "data_age_s": 200.0, "near_duplicate_ratio": 0.02,
        }  # fmt: skip


def add_history(folder):
    """The rows, and a line that was torn by a full disk."""
    lines = [json.dumps(row) for row in history_rows()]
    history_path(folder).write_text("\n".join([*lines, '{"at": 17900']) + "\n")


def add_events(folder, events=None):
    """Events of a run that acted; two have hostile fields."""
    if events is None:
        events = [
            {"at": 0, "event": "started", "step": 0, "generation": 1, "ranks": 1},
            {"at": 600, "event": "checkpoint", "step": 80, "verdict": "ok", "size_bytes": 9_000},
            {"at": 601, "event": "published", "step": 80},
            {"at": 602, "event": "probe", "step": 80, "knn_accuracy": 0.4},
            {"at": 3000, "event": "restarted", "component": "learner", "reason": HOSTILE},
            {"at": 4400, "event": "finding_raised", "name": "stuck_at_log_k", "value": 0.99,
             "healthy": "0.37 to 0.9", "remedy": HOSTILE, "subject": "", "step": 610},
            {"at": 4500, "event": "action", "kind": "rollback", "step": 620, "to_step": 500,
             "reason": "the representation collapsed"},
            {"at": 5000, "event": "finding_cleared", "name": "stuck_at_log_k", "value": 0.6,
             "lasted_s": 600, "subject": ""},
            {"at": 6000, "event": HOSTILE, "name": HOSTILE},
        ]  # fmt: skip
    lines = [json.dumps(event | {"at": BEGAN + event["at"]}) for event in events]
    events_path(folder).write_text("\n".join(lines) + "\n")


def add_status(folder, **over):
    """The snapshot of a run that stopped in order, with a finding."""
    values = {
        "run": folder.name, "state": "stopped", "message": f"asked to stop {HOSTILE}",
        "learner_up": False, "probes": probes(),
        "learner": learner(
            reported_at=BEGAN + LASTED_S,
            health=Health(verdict="degraded", findings=(
                dataclasses.replace(FINDING, remedy=HOSTILE, since=BEGAN + 7000, since_step=970),)),
        ),
    } | over  # fmt: skip
    (folder / "status.json").write_text(status_json(status(**values)))


def add_quarantine(folder):
    """A picture that decodes, one that does not, one without bytes, one outside the folder."""
    shard = Shard(url=f"/data/{HOSTILE}.tar", size_bytes=1, fingerprint="x-1", discovered_at=1.0,
                  source="cam")  # fmt: skip
    picture = encode(render(3, np.random.default_rng(0), size=64))
    quarantine = Quarantine(folder / "quarantine")

    def keep(index, data, reason="corrupt", key=HOSTILE):
        quarantine.keep_sample(shard, index=index, key=key, reason=reason, detail=HOSTILE,
                               suffix="jpg", data=data)  # fmt: skip

    keep(0, picture, reason="ambiguous")
    keep(1, picture[:400])
    keep(2, None, reason="no_image")
    keep(3, b"GIF89a" + bytes(64), reason="unsupported")
    lines = folder / "quarantine" / "samples.jsonl"
    with lines.open("a") as file:
        entry = json.loads(lines.read_text().splitlines()[0])
        outside = Path("..") / ".." / "shards" / "s0.tar"
        file.write(json.dumps(entry | {"index": 4, "copy": str(outside)}) + "\n")
