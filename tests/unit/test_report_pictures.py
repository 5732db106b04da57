"""Pictures of the report: curves that hide nothing, prototypes that move, a map without overlap."""

import dataclasses
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from report_example import BEGAN, add_shards, config, history_rows, make_empty_run, probes

from online_swav.config import load_yaml
from online_swav.report.crops import crop_images
from online_swav.report.curves import BINS, CURVES, Frame, draw_curves, thin
from online_swav.report.embedding_map import THUMBNAIL_SHARE, embedding_map
from online_swav.report.encoder import Encoded
from online_swav.report.gallery import gallery
from online_swav.report.samples import SampleImage, take_sample
from streams.shard import SampleId


def test_a_thinned_curve_keeps_extremes_and_shows_stops():
    times = np.concatenate([np.arange(5000.0), np.arange(9000.0, 14_000.0)])
    values = np.ones(len(times))
    values[1234], values[8000] = 50.0, -50.0
    middle, low, high, at = thin(times, values)
    assert len(middle) <= BINS + 1
    assert (np.nanmax(high), np.nanmin(low)) == (50.0, -50.0)
    assert np.isnan(middle).sum() == 1, "the line is broken once, where the run stood"
    assert 4900 < at[np.flatnonzero(np.isnan(middle))[0] - 1] < 5000


def test_every_curve_of_the_history_is_drawn_in_the_colours_of_the_page():
    rows = list(history_rows())
    frame = Frame(first=BEGAN, last=BEGAN + 7200, verdicts=(), actions=(BEGAN + 4500,))
    drawn = draw_curves(rows, probes(), frame)
    assert [curve.title for curve in drawn[:2]] == ["Loss / log K", "k-NN accuracy"]
    assert len(drawn) == len(CURVES) + 1
    for curve in drawn:
        assert "var(--accent)" in curve.picture, curve.title
        assert set(re.findall(r"#[0-9a-f]{6}", curve.picture)) == set(), "no fixed colour"
    assert drawn[2].keys == (("--accent", "in use"), ("--second", "dead"))


def test_rows_without_numbers_make_no_curve():
    frame = Frame(first=0, last=1, verdicts=(), actions=())
    assert draw_curves([{"at": 0.0, "loss_ratio": "NaN", "lag_s": None}], (), frame) == []


def test_a_single_probe_has_a_scale_that_can_be_read():
    frame = Frame(first=BEGAN, last=BEGAN + 7200, verdicts=(), actions=())
    only = dataclasses.replace(probes()[0], knn_accuracy=0.3394)
    (curve,) = draw_curves([], (only,), frame)
    ticks = re.findall(r">([\d.]+%)<", curve.picture)
    assert len(ticks) > 2
    assert len(set(ticks)) == len(ticks), "no tick says what its neighbour says"


def test_hostile_words_in_a_picture_are_words():
    from online_swav.report import plots

    picture = plots.figure(100, 100)
    plots.axes(picture).set_xlabel("<script> & $x^2$ $")
    text = plots.svg(picture, name="x", title='"><script>')
    assert "<script" not in text
    assert "$x^2$" in text


def images(labels):
    square = np.zeros((8, 8, 3), dtype=np.uint8)
    return [
        SampleImage(id=SampleId("s", i), key=f"k{i}", label=label, square=square, thumbnail=b"jpg",
                    encoded=None)
        for i, label in enumerate(labels)
    ]  # fmt: skip


def seen(step, winners, num_prototypes=6):
    scores = torch.nn.functional.one_hot(torch.tensor(winners), num_prototypes).float()
    return Encoded(step, torch.nn.functional.normalize(scores + 0.01, dim=1), scores)


def test_the_gallery_tells_who_rises_and_who_dies():
    labels = [0] * 20 + [1] * 10
    before = seen(500, [0] * 20 + [1] * 10)
    now = seen(1000, [0] * 10 + [2] * 10 + [3] * 6 + [1] * 4)
    summary, (most, rising, dying) = gallery(images(labels), now, before)
    assert summary == "At step 1,000, 4 of 6 prototypes win at least one of 30 sample images."
    assert {p.number for p in most.prototypes} == {0, 1, 2, 3}
    assert most.prototypes[0].share == "33.3%, was 66.7%"
    assert most.prototypes[0].label == "100% have label 0"
    assert rising.missing, "those that rise are among the most used"
    assert [p.number for p in dying.prototypes] == [0, 1]
    nearest = [picture.words for picture in dying.prototypes[1].nearest]
    assert nearest[0].startswith("k2"), "an image that it stood for then"
    assert len(nearest) == 8


def test_one_checkpoint_cannot_tell_a_change():
    _, groups = gallery(images([None] * 4), seen(500, [0, 1, 1, 2]), None)
    assert [bool(group.missing) for group in groups] == [False, True, True]
    assert groups[0].prototypes[0].label == ""


def test_thumbnails_of_the_map_do_not_cover_each_other():
    torch.manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(200, 8), dim=1)
    found = embedding_map(images(range(200)), Encoded(1, embeddings, embeddings))
    assert len(found.pins) > 20
    side = 100 * THUMBNAIL_SHARE - 0.02
    for i, a in enumerate(found.pins):
        assert 0 <= a.left <= 100 - side
        assert 0 <= a.top <= 100 - side
        for b in found.pins[:i]:
            assert max(abs(a.left - b.left), abs(a.top - b.top)) >= side
    assert len(found.keys) == 13, "twelve labels and the others"


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_collapsed_encoder_has_a_map_too(count):
    embeddings = torch.ones(count, 4) / 2
    found = embedding_map(images([None] * count), Encoded(1, embeddings, embeddings))
    assert (found.explained, len(found.pins), found.keys) == ("0%", 1, ())


def test_the_sample_is_taken_from_all_shards_and_passes_over_what_is_broken(tmp_path):
    run = make_empty_run(tmp_path / "run")
    add_shards(run)
    broken = tmp_path / "shards" / "s0.tar"
    broken.write_bytes(broken.read_bytes()[:30_000])
    broken.with_name("s0.tar.json").unlink()  # it promises the whole tar
    (tmp_path / "shards" / "text.tar").write_text("<html>")
    sample = take_sample(load_yaml(run / "config.yaml", config(run)), (), limit=15)
    assert len(sample.images) == 10, "five of each shard but the one that is none"
    assert sample.shards == 2
    assert sample.origin == "the run's sources"
    assert sample.images[0].square.shape == (32, 32, 3)
    assert sample.images[0].label is not None


def test_crops_are_those_of_the_run_in_its_sizes(tmp_path):
    import base64

    run = make_empty_run(tmp_path / "run")
    add_shards(run)
    recipe = load_yaml(run / "config.yaml", config(run))
    sample = take_sample(recipe, (), limit=8)
    cropped = crop_images(recipe, sample.images)
    assert len(cropped) == 4
    assert [len(family) for family in cropped[0].families] == [2, 2]
    data = base64.b64decode(cropped[0].families[1][0].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (16, 16)
    assert crop_images(recipe, sample.images) == cropped
