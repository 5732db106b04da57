"""Searching embeddings: the nearest rows, the encoder they are of, and the page."""

import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from embeddings_example import publish, write_shards
from PIL import Image

from online_swav.cli import main
from online_swav.embeddings.nearest import nearest
from online_swav.embeddings.table import Rows, open_table, rows, schema_of
from streams.testing import jpeg_bytes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, its shards in `in`, and their embeddings in `out.parquet`."""
    place = tmp_path_factory.mktemp("search")
    publish(place / "run", step=100, seed=0)
    write_shards(place / "in")
    command = ["embed", "--run", str(place / "run"), "--source", str(place / "in")]
    assert main([*command, "--out", str(place / "out.parquet")]) == 0
    (place / "query.jpg").write_bytes(jpeg_bytes(12))  # the same as b-2
    return place


def search(place, *options):
    return main(["search", "--index", str(place / "out.parquet"),
                 "--image", str(place / "query.jpg"), *options])  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_nearest_rows_of_many_row_groups_are_those_of_all_at_once(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("online_swav.embeddings.table.GROUP_ROWS", 64)
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(1000, 8)) * rng.uniform(0.1, 9, size=(1000, 1))).astype(dtype)
    vectors[700] = 0  # of no direction, near nothing
    vectors[900] = 2 * vectors[30]  # as near as an earlier row
    schema = schema_of(8, dtype, {})
    with Rows(tmp_path / "x.parquet", schema) as writer:
        for start in range(0, 1000, 37):
            part = vectors[start : start + 37]
            count = len(part)
            writer.add(rows(schema, keys=[f"k{start + i}" for i in range(count)], shard="s",
                            indices=range(start, start + count), embeddings=part,
                            prototypes=np.arange(count, dtype=np.int32),
                            scores=np.ones(count, np.float32)))  # fmt: skip
    query = vectors[30].astype(np.float32)
    wide = vectors.astype(np.float64)
    cosines = wide @ query / np.maximum(np.linalg.norm(wide, axis=1), 1e-9) / np.linalg.norm(query)
    expected = np.argsort(-cosines.round(6), kind="stable")[:20]
    with open_table(tmp_path / "x.parquet") as file:
        assert file.num_row_groups > 10
        hits = nearest(file, query, k=20)
        assert len(nearest(file, query, k=5000)) == 1000
    assert [hit.row for hit in hits] == expected.tolist()
    assert [hit.row for hit in hits[:2]] == [30, 900]
    assert [hit.key for hit in hits] == [f"k{row}" for row in expected]
    assert [hit.index for hit in hits] == expected.tolist()
    assert [hit.cosine for hit in hits] == pytest.approx(cosines[expected].tolist(), abs=1e-3)


def test_a_picture_finds_itself_first(place, tmp_path, capsys):
    assert search(place, "-k", "3", "--html", str(tmp_path / "page.html")) == 0
    said = capsys.readouterr().out
    assert re.search(r"1\s+1\.0000\s+b-2\s+b\.tar\s+2", said)
    (place / "in" / "a.tar").rename(tmp_path / "a.tar")
    try:
        assert search(place, "-k", "15") == 0
    finally:
        (tmp_path / "a.tar").rename(place / "in" / "a.tar")
    assert "no thumbnail" not in capsys.readouterr().out, "nobody asked for any"
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg") == 4
    assert "http" not in page.replace("http-equiv", "")
    assert "The 3 nearest of 15 pictures" in page
    assert page.index("b-2") < page.index('class="facts"')


def test_a_missing_or_changed_shard_is_said(place, tmp_path, capsys):
    gone, other = place / "in" / "a.tar", place / "in" / "c.tar"
    kept = other.read_bytes()
    gone.rename(tmp_path / "a.tar")
    other.write_bytes(kept.replace(b"c-3.jpg", b"d-3.jpg"))
    try:
        assert search(place, "-k", "15", "--html", str(tmp_path / "page.html")) == 0
    finally:
        (tmp_path / "a.tar").rename(gone)
        other.write_bytes(kept)
    said = capsys.readouterr().out.replace("\n", "")
    assert "a.tar: its shard is gone" in said
    assert "c.tar: its shard " in said
    page = (tmp_path / "page.html").read_text()
    assert page.count("No picture: its shard is gone.") == 5
    assert page.count("data:image/jpeg") > 5


def test_names_from_outside_are_only_words_on_the_page(place, tmp_path):
    hostile = tmp_path / "<script>alert(1)</script>.jpg".replace("/", "")
    hostile.write_bytes(jpeg_bytes(3))
    assert main(["search", "--index", str(place / "out.parquet"), "--image", str(hostile),
                 "--html", str(tmp_path / "page.html")]) == 0  # fmt: skip
    assert "<script" not in (tmp_path / "page.html").read_text()


def test_another_encoder_than_that_of_the_rows_is_refused(place, tmp_path, capsys):
    publish(tmp_path / "run", step=200, seed=1)
    assert search(place, "--run", str(tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert "cannot be compared" in error
    assert "Leave --run away" in error
    assert search(place, "--run", str(place / "run"), "-k", "1") == 0


def test_mistakes_are_one_line(place, tmp_path, capsys, monkeypatch):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "x.parquet").write_text("no table")
    pq.write_table(pq.read_table(place / "out.parquet").select(["key"]), tmp_path / "y.parquet")
    shutil.copytree(place / "out.parquet.encoder", tmp_path / "z.parquet.encoder")
    whole = (place / "out.parquet").read_bytes()
    (tmp_path / "z.parquet").write_bytes(b"PAR1" + bytes(len(whole) * 3 // 4) + whole[
        4 + len(whole) * 3 // 4 :])  # fmt: skip
    index, image = str(place / "out.parquet"), str(place / "query.jpg")
    for command, says in [
        (["--index", index, "--image", str(tmp_path / "text.jpg")], "text.jpg: "),
        (["--index", index, "--image", "gone.jpg"], "--image gone.jpg: No such file"),
        (["--index", "gone.parquet", "--image", image], "it does not exist"),
        (["--index", str(tmp_path / "x.parquet"), "--image", image], "cannot be read"),
        (["--index", str(tmp_path / "y.parquet"), "--image", image], "not written by"),
        (["--index", str(tmp_path / "z.parquet"), "--image", image], "z.parquet is damaged"),
        (["--index", index, "--image", image, "-k", "0"], "-k must be at least 1"),
        (["--index", index, "--image", image, "--html", "gone/x.html"], "does not exist"),
    ]:
        assert main(["search", *command]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert len(error.splitlines()) == 1
    encoder = place / "out.parquet.encoder"
    monkeypatch.setattr("online_swav.embeddings.search.encoder_folder", lambda _: tmp_path / "no")
    assert encoder.exists()
    assert search(place) == 2
    assert "give it with --run PLACE" in capsys.readouterr().err


def test_a_grey_png_is_a_picture_too(place, tmp_path):
    Image.new("L", (90, 40), 128).save(tmp_path / "grey.png")
    assert main(["search", "--index", str(place / "out.parquet"),
                 "--image", str(tmp_path / "grey.png")]) == 0  # fmt: skip
