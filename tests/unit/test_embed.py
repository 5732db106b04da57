"""Embeddings of shards: what a row says, what has none, and going on after an end in the middle."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from embeddings_example import DIM, publish, write_shards

import online_swav.embeddings.embed
from online_swav.cli import main
from online_swav.embeddings.table import GROUP_ROWS, Rows, rows, schema_of
from online_swav.encoder import Encoder
from streams.config import LimitsConfig
from streams.decode import decode_image
from streams.errors import ShardError
from streams.testing import jpeg_bytes
from tests.builders import tar_of


@pytest.fixture
def run(tmp_path):
    publish(tmp_path / "run", step=100, seed=0)
    return tmp_path / "run"


def embed(run, shards, out, *options):
    return main(["embed", "--run", str(run), "--source", str(shards), "--out", str(out),
                 "--device", "cpu", *options])  # fmt: skip


def image(seed):
    return torch.from_numpy(decode_image(jpeg_bytes(seed), LimitsConfig())).permute(2, 0, 1)


def test_every_picture_has_a_row_that_the_encoder_agrees_with(run, tmp_path, capsys):
    shards = write_shards(tmp_path / "in")
    out = tmp_path / "out.parquet"
    assert embed(run, shards, out, "--dtype", "float32", "--batch", "2") == 0
    assert "15 rows of 3 shards" in capsys.readouterr().out
    table = pq.read_table(out)
    assert table.schema.field("embedding").type == pa.list_(
        pa.field("element", pa.float32(), False), DIM
    )
    assert table["key"].to_pylist() == [f"{name}-{i}" for name in "abc" for i in range(5)]
    assert table["index"].to_pylist() == [0, 1, 2, 3, 4] * 3
    assert set(table["shard"].to_pylist()) == {str(shards / f"{name}.tar") for name in "abc"}
    features, scores = Encoder.load(run).features_and_scores([image(0), image(21)])
    row, other = table.slice(0, 1).to_pylist()[0], table.slice(11, 1).to_pylist()[0]
    np.testing.assert_allclose([row["embedding"], other["embedding"]], features, atol=1e-5)
    assert [row["prototype"], other["prototype"]] == scores.argmax(dim=1).tolist()
    assert [row["score"], other["score"]] == pytest.approx(scores.amax(dim=1).tolist(), abs=1e-5)
    told = json.loads(pq.read_schema(out).metadata[b"online_swav"])
    assert (told["card"]["step"], told["dtype"], told["normalised"]) == (100, "float32", False)
    assert not (tmp_path / "out.parquet.parts").exists()


def test_float16_and_unit_norm(run, tmp_path):
    out = tmp_path / "out.parquet"
    assert embed(run, write_shards(tmp_path / "in", shards=1), out, "--normalise") == 0
    column = pq.read_table(out)["embedding"].combine_chunks()
    assert column.type.value_type == pa.float16()
    vectors = column.flatten().to_numpy().reshape(-1, DIM).astype(np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-3)


def test_an_encoder_without_prototypes_leaves_nulls(run, tmp_path):
    published = next((run / "published").glob("step-*"))
    (published / "head.safetensors").unlink()
    out = tmp_path / "out.parquet"
    assert embed(published, write_shards(tmp_path / "in", shards=1), out) == 0
    table = pq.read_table(out)
    assert (table["prototype"].null_count, table["score"].null_count) == (5, 5)


def test_what_has_no_row_is_counted_and_named(run, tmp_path, capsys):
    shards = write_shards(tmp_path / "in", shards=1)
    good = jpeg_bytes(1)
    tar_of(shards / "bad.tar", [("torn.jpg", good[: len(good) // 2]), ("note.txt", b"no picture"),
                                ("fine.jpg", good)])  # fmt: skip
    whole = tar_of(shards / "cut.tar", [("one.jpg", good), ("two.jpg", good)])
    whole.write_bytes(whole.read_bytes()[:1800])
    (shards / "page.tar").write_bytes(b"<html>" + bytes(2000))
    out = tmp_path / "out.parquet"
    assert embed(run, shards, out) == 0
    assert pq.read_table(out)["key"].to_pylist() == ["a-0", "a-1", "a-2", "a-3", "a-4", "fine"]
    said = capsys.readouterr().out
    assert "without a row: 5 (1 corrupt, 1 no_image, 1 truncated, 2 damaged)" in said
    lines = (tmp_path / "out.parquet.missing.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [one["key"] for one in told] == ["torn", "note", "one", "", ""]
    assert told[-1]["shard"].endswith("page.tar")


def test_a_shard_that_cannot_be_read_now_is_tried_again(run, tmp_path, monkeypatch, capsys):
    shards, out = write_shards(tmp_path / "in"), tmp_path / "out.parquet"
    opened = online_swav.embeddings.embed.ShardReader.__iter__

    def refuse(self):
        if self._shard.url.endswith("b.tar"):
            raise ShardError("b.tar cannot be opened: Stale file handle", url="b.tar",
                             reason="unreadable")  # fmt: skip
        return opened(self)

    monkeypatch.setattr("online_swav.embeddings.embed.ShardReader.__iter__", refuse)
    assert embed(run, shards, out) == 1
    error = capsys.readouterr().err
    assert "1 of 3 shards cannot be read now" in error
    assert "Stale file handle" in error
    assert not out.exists()
    monkeypatch.undo()
    assert embed(run, shards, out) == 0
    assert "2 of 3 shards are finished already" in capsys.readouterr().err
    assert pq.read_table(out).num_rows == 15


def test_the_encoder_of_a_file_that_was_moved_away_is_kept(run, tmp_path, capsys):
    shards, out = write_shards(tmp_path / "in", shards=1), tmp_path / "out.parquet"
    assert embed(run, shards, out) == 0
    out.rename(tmp_path / "old.parquet")
    assert embed(run, shards, out) == 2
    assert "out.parquet.encoder is there already" in capsys.readouterr().err
    (tmp_path / "out.parquet.encoder").rename(tmp_path / "old.parquet.encoder")
    assert embed(run, shards, out) == 0


def test_the_same_command_goes_on_after_an_end_in_the_middle(run, tmp_path, monkeypatch, capsys):
    shards, out = write_shards(tmp_path / "in"), tmp_path / "out.parquet"
    through = Encoder.features_and_scores
    calls = []

    def dies_in_the_third_shard(self, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return through(self, images)

    monkeypatch.setattr(Encoder, "features_and_scores", dies_in_the_third_shard)
    assert embed(run, shards, out) == 130
    assert not out.exists()
    publish(run, step=200, seed=1)  # and the run has gone on, and dropped the encoder of before
    assert embed(run, shards, out, "--dtype", "float32") == 2
    assert "unfinished work with dtype float16" in capsys.readouterr().err
    assert embed(run, shards, out) == 0
    assert "2 of 3 shards are finished already" in capsys.readouterr().err
    assert calls == [5, 5, 5, 5], "only the third shard is encoded again"
    table = pq.read_table(out)
    assert table.num_rows == 15
    assert json.loads(pq.read_schema(out).metadata[b"online_swav"])["card"]["step"] == 100
    assert embed(run, shards, out) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--run", "nowhere"], "there is nothing at nowhere"),
        (["--source", "nowhere"], "does not exist"),
        (["--out", "nowhere/out.parquet"], "the folder"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--device", "cuda"], "no GPU"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    run, tmp_path, monkeypatch, capsys, options, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = {"--run": "run", "--source": "in", "--out": "out.parquet"}
    write_shards(tmp_path / "in", shards=1)
    before = sorted(tmp_path.iterdir())
    asked |= dict(zip(options[::2], options[1::2], strict=True))
    assert main(["embed", *(word for pair in asked.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_no_picture_at_all_is_a_mistake(run, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "x.tar", [("a.txt", b"x")])
    assert embed(run, tmp_path / "in", tmp_path / "out.parquet") == 2
    assert "none of 1 samples in 1 shards is a picture" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


def test_a_missing_pyarrow_says_what_to_install(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert embed(run, tmp_path, tmp_path / "out.parquet") == 2
    assert "pip install 'online-swav[embed]'" in capsys.readouterr().err


def test_small_batches_become_row_groups_of_one_size(tmp_path):
    schema = schema_of(4, "float16", {})
    with Rows(tmp_path / "x.parquet", schema) as writer:
        for _ in range(3):
            writer.add(rows(schema, keys=["k"] * 5000, shard="s", indices=range(5000),
                            embeddings=np.zeros((5000, 4), np.float16), prototypes=None,
                            scores=None))  # fmt: skip
    metadata = pq.read_metadata(tmp_path / "x.parquet")
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sum(groups) == 15_000
    assert max(groups) <= GROUP_ROWS
