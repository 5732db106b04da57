"""From leased shards to batches: every sample once, in an order that the seed decides."""

import dataclasses
import json
import pickle
import shutil

import numpy as np
import pytest

from streams.batch import Batch
from streams.config import CropFamily, IngestConfig, LimitsConfig
from streams.decode import decode_image
from streams.errors import LeaseLost
from streams.ingest import Ingest, empty_crops
from streams.ledger import Ledger
from streams.pack import write_shard
from streams.quarantine import Quarantine
from streams.shard import Origin, SampleId
from streams.testing import jpeg_bytes, shard_of, truncate, write_test_shards

FAMILIES = (
    CropFamily(size=16, num=2, scale=(0.3, 1.0)),
    CropFamily(size=8, num=3, scale=(0.1, 0.3)),
)
CONFIG = IngestConfig(batch_size=4, open_shards=2, window=6, limits=LimitsConfig(min_side=8))


@pytest.fixture
def ledger(tmp_path):
    book = Ledger(tmp_path / "ledger.sqlite")
    yield book
    assert book.verify() == []
    book.close()


def reader(ledger, tmp_path, *, generation=0, worker="w", config=CONFIG, seed=3, **more):
    return Ingest(
        books=ledger, quarantine=Quarantine(tmp_path / "quarantine"), families=FAMILIES,
        config=config, worker=worker, generation=generation, seed=seed, **more,
    )  # fmt: skip


def drain(ingest, ledger, *, step=1):
    """Train on everything there is; the samples in order."""
    order = []
    while (batch := ingest.next_batch(flush=True)) is not None:
        granted = ledger.claim(batch.origins, generation=ledger.generation, rank=0, step=step)
        assert all(granted)
        order += [origin.sample for origin in batch.origins]
        step += 1
    return order


def test_every_sample_comes_once_in_batches_of_crops(ledger, tmp_path):
    paths = write_test_shards(tmp_path / "in", shards=3, samples_per_shard=5)
    ledger.add([shard_of(path) for path in paths])
    ingest = reader(ledger, tmp_path)
    batch = ingest.next_batch()
    assert [family.shape for family in batch.crops] == [(2, 4, 16, 16, 3), (3, 4, 8, 8, 3)]
    assert ledger.claim(batch.origins, generation=0, rank=0, step=1) == [True] * 4
    rest = drain(ingest, ledger, step=2)
    everything = {SampleId(shard_of(path).id, i) for path in paths for i in range(5)}
    assert {o.sample for o in batch.origins} | set(rest) == everything
    assert len(rest) == 11
    assert ledger.pending() == 0


def crops_by_sample(ingest):
    """Crops of every sample, each batch taken away before the next one is asked for."""
    found, places = {}, set()
    while (batch := ingest.next_batch(flush=True)) is not None:
        places |= {family.ctypes.data for family in batch.crops if len(batch) == 4}
        batch = pickle.loads(pickle.dumps(batch))
        for i, origin in enumerate(batch.origins):
            found[origin.sample] = np.concatenate([family[:, i].ravel() for family in batch.crops])
    return found, places


def test_memory_of_batches_is_reused_where_the_caller_says_so(ledger, tmp_path):
    (path,) = write_test_shards(tmp_path / "in", shards=1, samples_per_shard=10)
    ledger.add([shard_of(path)])
    place = empty_crops(FAMILIES, 4)
    again, places = crops_by_sample(
        reader(ledger, tmp_path, worker="again", allocate=lambda: place)
    )
    ledger.release("again", crashed=False)
    fresh, _ = crops_by_sample(reader(ledger, tmp_path, worker="fresh"))
    assert len(places) == 2  # one per family
    assert len(fresh) == 10
    assert fresh.keys() == again.keys()
    assert all(np.array_equal(fresh[sample], again[sample]) for sample in fresh)


def test_a_tail_waits_for_more_images_until_it_is_flushed(ledger, tmp_path):
    (path,) = write_test_shards(tmp_path / "in", shards=1, samples_per_shard=6)
    ledger.add([shard_of(path)])
    ingest = reader(ledger, tmp_path)
    assert len(ingest.next_batch()) == 4
    assert ingest.next_batch() is None
    assert ingest.next_batch() is None
    assert len(ingest.next_batch(flush=True)) == 2


def test_batches_mix_the_open_shards(ledger, tmp_path):
    paths = write_test_shards(tmp_path / "in", shards=2, samples_per_shard=12)
    ledger.add([shard_of(path) for path in paths])
    batch = reader(ledger, tmp_path).next_batch()
    assert len({origin.sample.shard_id for origin in batch.origins}) == 2


def test_the_same_sample_has_the_same_crops_on_any_worker(ledger, tmp_path):
    (path,) = write_test_shards(tmp_path / "in", shards=1, samples_per_shard=4)
    ledger.add([shard_of(path)])

    def crops(worker, seed=3):
        batch = reader(ledger, tmp_path, worker=worker, seed=seed).next_batch()
        ledger.release(worker, crashed=False)
        order = sorted(range(4), key=lambda i: batch.origins[i].sample)
        return batch.crops[0][:, order]

    assert np.array_equal(crops("one"), crops("two"))
    assert not np.array_equal(crops("one"), crops("one", seed=4))


def test_bad_samples_are_counted_named_and_kept(ledger, tmp_path):
    path = tmp_path / "bad.tar"
    good = jpeg_bytes(0)
    write_shard(path, [("a", {"jpg": good}), ("b", {"jpg": b"\xff\xd8 no picture"}),
                       ("c", {"txt": b"words"}), ("d", {"jpg": good[: len(good) // 2]}),
                       ("e", {"jpg": good})])  # fmt: skip
    ledger.add([shard_of(path)])
    order = drain(reader(ledger, tmp_path), ledger)
    assert sorted(sample.index for sample in order) == [0, 4]
    counts = ledger.counts()["test"]
    expected = {"b": "unsupported", "c": "no_image", "d": "corrupt"}
    assert {r for r, n in counts.dropped.items() if n == 1} == set(expected.values())
    assert counts.shards["done"] == 1
    text = (tmp_path / "quarantine" / "samples.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["key"]: line["reason"] for line in lines} == expected
    kept = next(line for line in lines if line["key"] == "b")
    assert (tmp_path / "quarantine" / kept["copy"]).read_bytes() == b"\xff\xd8 no picture"


def test_a_cut_shard_gives_what_is_whole_and_says_so(ledger, tmp_path):
    (path,) = write_test_shards(tmp_path / "in", shards=1, samples_per_shard=8)
    truncate(path, path.stat().st_size // 2)
    ledger.add([shard_of(path)])
    order = drain(reader(ledger, tmp_path), ledger)
    counts = ledger.counts()["test"]
    assert 0 < len(order) < 8
    assert counts.dropped["truncated"] == 1
    assert counts.samples_known == len(order) + 1
    (line,) = (tmp_path / "quarantine" / "shards.jsonl").read_text().splitlines()
    assert json.loads(line)["url"] == str(path)


@pytest.mark.parametrize("damage", ["text", "gone", "replaced"])
def test_a_shard_that_cannot_be_read_is_quarantined(ledger, tmp_path, damage):
    (path,) = write_test_shards(tmp_path / "in", shards=1, samples_per_shard=3)
    if damage == "text":
        path.write_text("not a tar " * 200)
    shard = shard_of(path)
    if damage == "gone":
        path.unlink()
    elif damage == "replaced":
        path.write_bytes(path.read_bytes() + b"more")
    ledger.add([shard])
    assert reader(ledger, tmp_path).next_batch(flush=True) is None
    assert ledger.counts()["test"].shards["quarantined"] == 1
    assert ledger.pending() == 0


def test_a_reader_of_an_old_generation_stops(ledger, tmp_path):
    (path,) = write_test_shards(tmp_path / "in", shards=1, samples_per_shard=3)
    ledger.add([shard_of(path)])
    ingest = reader(ledger, tmp_path)
    ledger.begin(0)
    with pytest.raises(LeaseLost, match="generation 0 is over"):
        ingest.next_batch(flush=True)


def test_a_zombie_reader_changes_nothing(ledger, tmp_path):
    """Its leases are taken away while it reads; what it still delivers is refused."""
    paths = write_test_shards(tmp_path / "in", shards=2, samples_per_shard=6)
    ledger.add([shard_of(path) for path in paths])
    zombie = reader(ledger, tmp_path, worker="zombie",
                    config=dataclasses.replace(CONFIG, window=2))  # fmt: skip
    late = zombie.next_batch()
    ledger.release("zombie", crashed=True)
    assert len(drain(reader(ledger, tmp_path, worker="other"), ledger)) == 12
    assert ledger.claim(late.origins, generation=0, rank=0, step=99) == [False] * 4
    while (batch := zombie.next_batch(flush=True)) is not None:
        granted = ledger.claim(batch.origins, generation=0, rank=0, step=99)
        assert not any(granted)
    assert ledger.counts()["test"].trained == 12


class Died(BaseException):
    """The end of a reader's process."""


@pytest.mark.parametrize("window", [1, 6, 100])
def test_a_picture_that_kills_readers_costs_its_shard_alone(ledger, tmp_path, monkeypatch, window):
    """Also when the whole shard was read, and others with it, before the picture is decoded."""
    (tmp_path / "in").mkdir()
    killer = jpeg_bytes(1) + b"kills"
    write_shard(tmp_path / "in" / "a.tar", [("0", {"jpg": jpeg_bytes(0)}), ("1", {"jpg": killer})])
    paths = write_test_shards(tmp_path / "in", shards=4, samples_per_shard=3)
    ledger.add([shard_of(path) for path in (tmp_path / "in" / "a.tar", *paths)])

    def decode(data, limits, **options):
        if data == killer:
            raise Died
        return decode_image(data, limits, **options)

    monkeypatch.setattr("streams.ingest.decode_image", decode)
    config = dataclasses.replace(CONFIG, window=window)
    trained, deaths = [], 0
    for _ in range(9):
        try:
            trained += drain(reader(ledger, tmp_path, config=config), ledger, step=1 + len(trained))
            break
        except Died:
            deaths += 1
            ledger.release("w", crashed=True)
    assert deaths == 3
    counts = ledger.counts()["test"]
    assert (counts.shards["quarantined"], counts.shards["done"]) == (1, 4)
    assert counts.trained - 12 in (0, 1)
    assert ledger.pending() == 0


def batches(ingest, ledger, *, step):
    """Every batch there is, trained on."""
    found = []
    while (batch := ingest.next_batch(flush=True)) is not None:
        assert all(ledger.claim(batch.origins, generation=0, rank=0, step=step + len(found)))
        found.append(batch)
    return found


def flags_by_image(found):
    return {
        origin.sample.index: flag
        for batch in found
        for origin, flag in zip(batch.origins, batch.near_duplicates, strict=True)
    }


def test_a_batch_tells_which_images_are_nearly_the_same_and_what_each_cost(ledger, tmp_path):
    """Three times one picture among others; what is broken counts nowhere."""
    path = tmp_path / "in.tar"
    pictures = [jpeg_bytes(seed) for seed in (0, 1, 0, 2, 3, 0)]
    pictures[3] = b"\xff\xd8 no picture"
    write_shard(path, [(str(i), {"jpg": data}) for i, data in enumerate(pictures)])
    ledger.add([shard_of(path)])
    found = batches(reader(ledger, tmp_path), ledger, step=1)
    flags = flags_by_image(found)
    assert sorted(flags) == [0, 1, 2, 4, 5]
    assert sum(flags[i] for i in (0, 2, 5)) == 2  # all but the one that came first
    assert not flags[1]
    assert not flags[4]
    costs = [cost for batch in found for cost in batch.decode_s]
    assert len(costs) == 5
    assert all(0 < cost < 60 for cost in costs)


def test_a_replayed_image_is_no_duplicate_and_makes_none(ledger, tmp_path):
    (old,) = write_test_shards(tmp_path / "in", shards=1, samples_per_shard=5)
    ledger.add([shard_of(old)])
    ingest = reader(ledger, tmp_path)
    first = batches(ingest, ledger, step=1)
    assert ledger.replay() == 1
    again = batches(ingest, ledger, step=11)
    assert flags_by_image(first) == flags_by_image(again) == dict.fromkeys(range(5), False)
    assert {origin.pass_number for batch in again for origin in batch.origins} == {1}
    # Another reader has met the pictures only as replays: new bytes like them are new to it.
    assert ledger.replay() == 1
    other = reader(ledger, tmp_path, worker="other")
    batches(other, ledger, step=21)
    copy = tmp_path / "copy.tar"
    shutil.copyfile(old, copy)
    ledger.add([shard_of(copy)])
    assert not any(flags_by_image(batches(other, ledger, step=31)).values())
    shutil.copyfile(old, tmp_path / "late.tar")
    ledger.add([shard_of(tmp_path / "late.tar")])
    assert all(flags_by_image(batches(other, ledger, step=41)).values())


def test_a_part_of_a_batch_keeps_what_belongs_to_its_images():
    origins = tuple(Origin(SampleId("a", i), 0, 1) for i in range(3))
    crops = (np.zeros((2, 3, 4, 4, 3), dtype=np.uint8),)
    batch = Batch(
        crops=crops, origins=origins, arrived_at=(0.0, 1.0, 2.0),
        decode_s=(0.1, 0.2, 0.3), near_duplicates=(True, False, True),
    )  # fmt: skip
    part = batch.select([0, 1])
    assert (part.decode_s, part.near_duplicates) == ((0.1, 0.2), (True, False))
    assert (batch.select([]).decode_s, batch.select([]).near_duplicates) == ((), ())
    unknown = Batch.of(crops, origins, (0.0, 1.0, 2.0)).select([2])
    assert (unknown.decode_s, unknown.near_duplicates) == ((), ())
    assert unknown.arrived_at == (2.0,)
    assert len(Batch.empty(FAMILIES).near_duplicates) == len(Batch.empty(FAMILIES)) == 0


def test_a_batch_refuses_what_does_not_fit():
    origin = Origin(SampleId("a", 0), 0, 1)
    crops = np.zeros((2, 1, 4, 4, 3), dtype=np.uint8)
    assert len(Batch(crops=(crops,), origins=(origin,), arrived_at=(0.0,))) == 1
    for bad in (
        {"crops": (crops.astype(np.float32),)},
        {"origins": (origin, origin)},
        {"arrived_at": ()},
        {"decode_s": (0.1, 0.2)},
        {"near_duplicates": (False, False)},
    ):
        values = {"crops": (crops,), "origins": (origin,), "arrived_at": (0.0,), **bad}
        with pytest.raises(ValueError, match=r"crops|origins|arrival"):
            Batch(**values)
