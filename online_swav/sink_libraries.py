"""TensorBoard, Weights & Biases, MLflow: each by its own library, imported when it is opened.

TensorBoard's files are written by the `tensorboard` package: tensorboardX and
`torch.utils.tensorboard` import torch, 600 MB in a process that holds a few numbers.
"""

from __future__ import annotations

import importlib
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from online_swav.config import RunConfig, digest, to_dict


class TensorBoardSink:
    """Event files in RUN/tensorboard."""

    def __init__(self, config: RunConfig) -> None:
        writer = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self._event: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._writer: Any = writer.EventFileWriter(str(Path(config.run) / "tensorboard"))
        self._last_step: int | None = None

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Sink`."""
        event = self._event
        if self._last_step is None or step < self._last_step:
            # A resumed or rolled back run makes steps again: what is there beyond is forgotten.
            start = event.SessionLog(status=event.SessionLog.START)
            self._writer.add_event(event.Event(wall_time=time.time(), step=step, session_log=start))
        self._last_step = step
        pairs = [self._summary.Summary.Value(tag=name, simple_value=value)
                 for name, value in values.items()]  # fmt: skip
        summary = self._summary.Summary(value=pairs)
        self._writer.add_event(event.Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """See `Sink`."""
        self._writer.close()


class WandbSink:
    """A run of Weights & Biases; the same run folder goes on in the same one."""

    def __init__(self, config: RunConfig) -> None:
        wandb: Any = importlib.import_module("wandb")
        run = Path(config.run)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "online-swav"),
            name=os.environ.get("WANDB_NAME", run.name),
            id=_identity(run, "wandb", lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(run),
            config=recipe(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        # Their own step may never go back; ours does, at a rollback.
        self._run.define_metric("*", step_metric="step")

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Sink`."""
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """See `Sink`."""
        self._run.finish()


class MlflowSink:
    """A run of MLflow; the same run folder goes on in the same one."""

    def __init__(self, config: RunConfig) -> None:
        mlflow: Any = importlib.import_module("mlflow")
        run = Path(config.run)
        self._client = mlflow.MlflowClient()
        self._metric = importlib.import_module("mlflow.entities").Metric
        self._id = _identity(run, "mlflow", lambda: self._create(run, config))
        self._client.update_run(self._id, status="RUNNING")

    def _create(self, run: Path, config: RunConfig) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "online-swav")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        created: str = self._client.create_run(number, run_name=run.name).info.run_id
        for option, value in recipe(config).items():
            self._client.log_param(created, option, value)
        return created

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Sink`."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """See `Sink`."""
        self._client.update_run(self._id, status="FINISHED")


def recipe(config: RunConfig) -> dict[str, Any]:
    """The options that decide the weights, flat; no places, hence no secrets of theirs."""
    plain = to_dict(config)
    flat: dict[str, Any] = {"config_digest": digest(config), "seed": config.seed,
                            "batch_size": config.global_batch_size}  # fmt: skip

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                flatten(f"{prefix}.{name}", part)
        else:
            flat[prefix] = json.dumps(value) if isinstance(value, list) else value

    flatten("learner", plain["learner"])
    flatten("crops", plain["crops"])
    return flat


def _identity(run: Path, sink: str, create: Callable[[], str]) -> str:
    """What the run is called at a sink, kept in RUN/sinks.json."""
    path = run / "sinks.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if sink not in known:
        known[sink] = create()
        staging = path.with_name(f".{path.name}")
        staging.write_text(json.dumps(known) + "\n")
        staging.replace(path)
    return known[sink]
