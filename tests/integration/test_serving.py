"""A served encoder: answers, limits, newer encoders; then the command on a real Ray Serve."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial

import psutil
import pytest
import torch

from online_swav.cli import main
from online_swav.config import to_yaml
from online_swav.encoder import Encoder
from online_swav.errors import ConfigError
from online_swav.learning.model import SwavModel
from online_swav.presets import preset
from online_swav.published import Published, encoder_card
from online_swav.serving.config import ServingConfig
from online_swav.serving.hot_encoder import HotEncoder
from online_swav.serving.pictures import Embedded, embed
from streams.errors import DecodeError
from streams.testing import jpeg_bytes

BACKBONE = "shufflenet_v2_x0_5"  # the smallest
WIDTH = 1024
NO_WARNING_OF_RAY = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field` is deprecated"
)
PICTURES = [jpeg_bytes(seed, size) for seed, size in enumerate([(40, 60), (64, 64), (90, 50)])]


class PublishingRun:
    """A run folder that publishes encoders when told to."""

    def __init__(self, folder):
        self.folder = folder
        recipe = preset("demo", run=str(folder))
        model = replace(recipe.learner.model, backbone=BACKBONE)
        self.config = replace(recipe, learner=replace(recipe.learner, model=model))
        folder.mkdir()
        (folder / "config.yaml").write_text(to_yaml(self.config))

    def publish(self, step, *, factor=1.0):
        """An encoder of the same weights for the same step; its folder."""
        torch.manual_seed(step)
        model = SwavModel(backbone=BACKBONE, small_stem=False, hidden_dim=16, embedding_dim=8,
                          num_prototypes=5)  # fmt: skip
        with torch.no_grad():
            model.backbone.conv1[0].weight.mul_(factor)
        head = {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.")}
        card = encoder_card(self.config, samples_seen=0, verdict="ok", probe=None)
        return Published(self.folder, keep=3).publish(
            model.backbone, step=step, card=card, head=head
        ).path  # fmt: skip


@pytest.fixture
def published(tmp_path):
    return PublishingRun(tmp_path / "run")


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(len(PICTURES))]
    for path, data in zip(paths, PICTURES, strict=True):
        path.write_bytes(data)
    return paths


def is_near(answer, features):
    return torch.allclose(torch.tensor(answer), features, atol=1e-4)


# -- without Ray -----------------------------------------------------------------------------------


def test_a_batch_gives_what_the_encoder_gives_and_a_bad_picture_fails_alone(published, files):
    encoder = Encoder.load(published.publish(7))
    damaged, text = PICTURES[0][:300], b"no picture at all"
    found = embed(encoder, [PICTURES[0], damaged, PICTURES[1], text, PICTURES[2]])
    good = [found[0], found[2], found[4]]
    assert all(isinstance(one, Embedded) for one in good)
    expected, scores = encoder(files), encoder.scores(files)
    assert all(is_near(one.embedding, e) for one, e in zip(good, expected, strict=True))
    assert [one.prototype for one in good] == scores.argmax(dim=1).tolist()
    assert {one.step for one in good} == {7}
    assert [isinstance(found[i], DecodeError) and found[i].reason for i in (1, 3)] == [
        "corrupt",
        "unsupported",
    ]


def test_pictures_that_need_too_much_memory_together_go_one_by_one(published, monkeypatch):
    encoder = Encoder.load(published.publish(7))
    through, largest = Encoder.features_and_scores, len(PICTURES[1])

    def little_memory(self, images):
        if len(images) > 1 or len(images._encoded[0]) == largest:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return through(self, images)

    monkeypatch.setattr(Encoder, "features_and_scores", little_memory)
    found = embed(encoder, PICTURES)
    assert [isinstance(one, Embedded) for one in found] == [True, False, True]
    assert found[1].reason == "too_large"
    assert "can't allocate memory" in str(found[1])


def test_a_newer_encoder_takes_the_place_and_a_batch_keeps_its_own(published, files):
    published.publish(1)
    hot = HotEncoder(str(published.folder))
    held = hot.current
    before = held(files)
    assert not hot.look()
    published.publish(2)
    assert hot.look()
    assert (held.card["step"], hot.current.card["step"]) == (1, 2)
    assert torch.equal(held(files), before)
    assert not torch.equal(hot.current(files), before)


@pytest.mark.parametrize("fault", ["cut", "not finite"])
def test_an_encoder_that_cannot_be_used_is_passed_over_until_there_is_a_better_one(
    published, fault
):
    published.publish(1)
    hot = HotEncoder(str(published.folder))
    broken = published.publish(2, factor=float("nan") if fault == "not finite" else 1.0)
    if fault == "cut":
        weights = broken / "backbone.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    for _ in range(2):
        assert not hot.look()
        assert hot.current.card["step"] == 1
        assert ("not finite" in hot.trouble) == (fault == "not finite")
    published.publish(3)
    assert hot.look()
    assert (hot.trouble, hot.current.card["step"]) == (None, 3)


def test_an_encoder_that_is_not_finite_is_not_served_at_all(published):
    published.publish(1, factor=float("nan"))
    with pytest.raises(ConfigError, match="not finite"):
        HotEncoder(str(published.folder))


async def ask(server, method, path, parts=(), headers=()):
    """The server's answer to one request, sent in parts: status, JSON."""
    from starlette.requests import Request

    waiting = list(parts)

    async def receive():
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    scope = {"type": "http", "method": method, "path": path, "query_string": b"",
             "headers": [(k.encode(), v.encode()) for k, v in headers]}  # fmt: skip
    response = await server(Request(scope, receive))
    return response.status_code, json.loads(response.body)


def alone(embed_batch):
    """In place of `ray.serve.batch`, which works in a replica only: nobody waits for others."""

    async def embed_one(picture):
        return (await embed_batch([picture]))[0]

    return embed_one


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("starlette")
    from online_swav.serving.server import EmbeddingServer

    published = PublishingRun(tmp_path_factory.mktemp("served") / "run")
    published.publish(5)
    config = ServingConfig(place=str(published.folder), max_bytes=5000, reload_every_s=3600)
    return EmbeddingServer(config, batched=alone)


@pytest.mark.parametrize("path", ["/", "/embed", "/embed/"])
def test_a_picture_in_parts_becomes_an_embedding(server, files, path):
    status, answer = asyncio.run(ask(server, "POST", path, [PICTURES[0][:99], PICTURES[0][99:]]))
    assert status == 200
    assert is_near(answer["embedding"], server._encoder.current(files[:1])[0])
    assert (answer["dim"], answer["step"]) == (WIDTH, 5)
    assert 0 <= answer["prototype"] < 5


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        (("POST", "/embed", [b"x" * 3000, b"x" * 3000]), 413, "larger than the 5000 bytes"),
        (("POST", "/embed", [], [("content-length", "5001")]), 413, "larger than the 5000 bytes"),
        (("POST", "/embed", [b"hello"]), 415, "not a JPEG"),
        (("POST", "/embed", []), 415, "has no body"),
        (("POST", "/embed", [b"--x"], [("content-type", "multipart/form-data; boundary=x")]), 415,
         "this is a form"),
        (("POST", "/embed", [PICTURES[0][:300]]), 422, "damaged"),
        (("GET", "/embed"), 405, "POST the bytes"),
        (("POST", "/card"), 405, "GET"),
        (("GET", "/elsewhere"), 404, "nothing at /elsewhere"),
    ],
)  # fmt: skip
def test_what_is_refused_is_refused_in_one_sentence(server, request_, status, sentence):
    found, answer = asyncio.run(ask(server, *request_))
    assert found == status
    assert list(answer) == ["error"]
    assert sentence in answer["error"]


def test_the_card_tells_what_is_served(server):
    status, card = asyncio.run(ask(server, "GET", "/card"))
    assert status == 200
    assert (card["step"], card["backbone"], card["feature_dim"]) == (5, BACKBONE, WIDTH)
    assert card["num_prototypes"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": 0}, "--port must lie in 1..65535, got 0"),
        ({"max_bytes": 0}, "--max-bytes must be at least 1"),
        ({"batch_wait_s": float("nan")}, "--batch-wait-s must lie in 0..60"),
        ({"reload_every_s": 0.0}, "must be positive"),
    ],
)
def test_options_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        replace(ServingConfig(place="run"), **change)


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_only_loopback_is_loopback(host, inside):
    assert ServingConfig(place="run", host=host).on_loopback is inside


@NO_WARNING_OF_RAY
def test_mistakes_end_with_exit_code_two_and_words(published, tmp_path, capsys):
    assert main(["serve", "--run", str(tmp_path / "nothing")]) == 2
    assert "there is nothing at" in capsys.readouterr().err
    assert main(["serve", "--run", str(published.folder)]) == 2
    assert "neither a published encoder nor a checkpoint" in capsys.readouterr().err
    assert main(["serve", "--run", str(published.folder), "--replicas", "0"]) == 2
    assert "--replicas must be at least 1" in capsys.readouterr().err


@NO_WARNING_OF_RAY
def test_a_taken_port_is_named_after_the_warning_of_an_open_service(published, capsys):
    pytest.importorskip("ray.serve", exc_type=ImportError)
    published.publish(1)
    with closing(socket.create_server(("0.0.0.0", 0))) as taken:
        port = taken.getsockname()[1]
        command = ["serve", "--run", str(published.folder), "--host", "0.0.0.0", "--port"]
        assert main([*command, str(port)]) == 2
    said = capsys.readouterr().err
    assert "0.0.0.0 is not loopback: everyone who reaches this machine" in said
    assert f"cannot listen on 0.0.0.0:{port}" in said


# -- on a real Ray Serve ---------------------------------------------------------------------------


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def post(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with closing(connection):
        connection.request("POST", "/embed", body=body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def wait_for(condition, process, output):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)


@NO_WARNING_OF_RAY
@pytest.mark.ray
@pytest.mark.chaos
def test_the_command_serves_reloads_and_leaves_no_process(published, files, tmp_path):
    pytest.importorskip("ray.serve", exc_type=ImportError)
    published.publish(5)
    port, output = free_port(), tmp_path / "output.txt"
    with output.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "online_swav", "serve", "--run", str(published.folder),
             "--port", str(port), "--max-bytes", "5000"],
            stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "RAY_ADDRESS": "nowhere:1"},
        )  # fmt: skip
    try:
        wait_for(lambda: f"serving {BACKBONE} at step 5" in output.read_text(), process, output)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/healthz", timeout=20) as answer:
            assert answer.status == 200
        # Requests that share a batch: each gets its own answer.
        with ThreadPoolExecutor(4) as clients:
            *answers, refused = clients.map(partial(post, port), [*PICTURES, b"no picture"])
        for (status, answer), features in zip(
            answers, Encoder.load(published.folder)(files), strict=True
        ):
            assert status == 200
            assert is_near(answer["embedding"], features)
        assert refused[0] == 415
        # The client sends more than is read, and gets the answer all the same.
        status, answer = post(port, bytes(1_000_000))
        assert (status, list(answer)) == (413, ["error"])
        (published.publish(6) / "backbone.safetensors").write_bytes(b"cut")
        wait_for(lambda: f"is not taken, {BACKBONE} at step 5 goes on" in output.read_text(),
                 process, output)  # fmt: skip
        published.publish(7)
        wait_for(lambda: post(port, PICTURES[0])[1]["step"] == 7, process, output)
        wait_for(lambda: f"now serving {BACKBONE} at step 7" in output.read_text(), process, output)
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in output.read_text()
        assert output.read_text().rstrip().endswith("stopping")
        assert psutil.wait_procs(tree, timeout=20)[1] == []
    finally:
        process.kill()
