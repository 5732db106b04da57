"""The embedded stream: labelled, repeatable, and colour does not give the class away."""

import numpy as np
import pytest

from streams.config import LimitsConfig
from streams.reader import ShardReader
from streams.synthetic import NUM_CLASSES, produce, render
from streams.testing import shard_of


def test_a_picture_is_repeatable_and_depends_on_its_class():
    one = render(3, np.random.default_rng(1), size=48)
    assert one.shape == (48, 48, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, render(3, np.random.default_rng(1), size=48))
    assert not np.array_equal(one, render(4, np.random.default_rng(1), size=48))


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match=r"label must lie in 0\.\.11, got 12"):
        render(NUM_CLASSES, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("over", "what"), [({"size": 0}, "size"), ({"samples_per_shard": 0}, "samples_per_shard")]
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, over, what):
    options = {"shards": 1, "samples_per_shard": 2, "every_s": 0, "seed": 0, "size": 24, **over}
    with pytest.raises(ValueError, match=f"{what} must be at least"):
        produce(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_waited_for_after_the_last_shard(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("streams.synthetic.time.sleep", waits.append)
    produce(tmp_path, shards=1, samples_per_shard=2, every_s=60, seed=0, size=24)
    assert waits == []


def test_mean_colour_does_not_tell_the_class():
    """Nearest class mean of the pictures' mean colours is hardly better than chance."""
    rng = np.random.default_rng(0)
    labels = rng.integers(NUM_CLASSES, size=600)
    colours = np.stack([render(int(y), rng, size=24).mean(axis=(0, 1)) for y in labels])
    fit, test = slice(0, 400), slice(400, 600)
    means = np.stack([colours[fit][labels[fit] == c].mean(axis=0) for c in range(NUM_CLASSES)])
    guess = ((colours[test][:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (guess == labels[test]).mean() < 2.5 / NUM_CLASSES


def test_produced_shards_are_whole_labelled_and_go_on_where_they_ended(tmp_path):
    produce(tmp_path, shards=2, samples_per_shard=5, every_s=0, seed=0, size=24)
    assert produce(tmp_path, shards=1, samples_per_shard=5, every_s=0, seed=0, size=24) == 1
    paths = sorted(tmp_path.glob("*.tar"))
    assert [path.name for path in paths] == [f"synthetic-{i:06d}.tar" for i in range(3)]
    for path in paths:
        reader = ShardReader(shard_of(path), limits=LimitsConfig())
        assert all(0 <= sample.label < NUM_CLASSES for sample in reader)
        assert (reader.num_samples, reader.fault) == (5, None)


def test_production_stops_when_asked(tmp_path):
    asked = iter([False, True])
    produce(tmp_path, shards=None, samples_per_shard=2, every_s=0, seed=0, size=24,
            stop=lambda: next(asked, True))  # fmt: skip
    assert len(list(tmp_path.glob("*.tar"))) == 1
