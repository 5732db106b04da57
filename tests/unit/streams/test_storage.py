import os

import pytest

from streams.errors import ShardError
from streams.storage import fingerprint, open_shard
from streams.testing import shard_of, write_test_shards


@pytest.fixture
def path(tmp_path):
    return write_test_shards(tmp_path, shards=1, samples_per_shard=1)[0]


def test_opens_the_discovered_bytes(path):
    with open_shard(shard_of(path)) as file:
        assert file.read() == path.read_bytes()


def test_the_fingerprint_is_size_and_modification_time(path):
    status = path.stat()
    assert fingerprint(status) == f"{status.st_size}-{status.st_mtime_ns}"
    assert shard_of(path).fingerprint == fingerprint(status)


@pytest.mark.parametrize("change", ["size", "mtime"])
def test_a_changed_file_is_refused(path, change):
    shard = shard_of(path)
    if change == "size":
        path.write_bytes(path.read_bytes() + bytes(512))
    else:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(ShardError, match="changed since") as caught:
        open_shard(shard)
    assert caught.value.reason == "replaced"
    assert caught.value.url == str(path)


def test_a_missing_file_says_so(path):
    shard = shard_of(path)
    path.unlink()
    with pytest.raises(ShardError, match="gone") as caught:
        open_shard(shard)
    assert caught.value.reason == "missing"


def test_a_named_pipe_does_not_block(tmp_path):
    pipe = tmp_path / "pipe.tar"
    os.mkfifo(pipe)
    with pytest.raises(ShardError, match="not a plain file") as caught:
        open_shard(shard_of(pipe))
    assert caught.value.reason == "unreadable"


def test_a_folder_is_unreadable(tmp_path):
    with pytest.raises(ShardError) as caught:
        open_shard(shard_of(tmp_path))
    assert caught.value.reason == "unreadable"
