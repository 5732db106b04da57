"""The import law of docs/design.md, direct and through chains, on what Python really loads."""

import subprocess
import sys

import pytest

LAW = [
    ("online_swav.config", ["torch", "ray", "torchvision"]),
    ("online_swav.cli", ["torch", "ray", "torchvision"]),
    ("online_swav.status", ["torch", "ray"]),
    ("online_swav.metrics_server", ["torch", "ray", "online_swav.trainer"]),
    ("online_swav.learning.learner", ["ray", "streams", "online_swav.config"]),
    ("streams.ingest", ["ray", "online_swav", "torch"]),
    ("streams.ledger", ["ray", "online_swav", "torch"]),
    ("streams.reader_processes", ["ray", "online_swav"]),
    ("streams.actors", ["online_swav", "torch"]),
    ("online_swav.console", ["torch", "ray"]),  # sets up logging in every actor
    ("online_swav.preflight.checks", ["torch", "ray"]),
    ("online_swav.preflight.reading", ["torch", "ray", "pydantic"]),
    ("online_swav.sinks", ["torch", "ray", "tensorboard", "wandb", "mlflow"]),
    ("online_swav.inprocess", ["ray"]),
    ("online_swav.trainer", ["ray", "online_swav.evaluation"]),
]  # fmt: skip


@pytest.mark.parametrize(("module", "forbidden"), LAW, ids=[module for module, _ in LAW])
def test_a_room_does_not_load_what_it_must_not_know(module, forbidden):
    code = f"import sys, {module}\nprint(*[name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_learning_names_no_process_group():
    """`torch` itself loads torch.distributed, so this rule is read from the sources."""
    from pathlib import Path

    import online_swav.learning

    for path in Path(online_swav.learning.__file__).parent.glob("*.py"):
        assert "distributed" not in path.read_text(), path.name
