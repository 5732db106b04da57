"""The hook, and the lock on the run folder."""

import multiprocessing

import pytest

from online_swav.errors import ConfigError
from online_swav.observer import SilentObserver, load_observer
from online_swav.run_lock import locked_run
from online_swav.testing import LineageRecorder


def test_an_observer_is_found_by_name(tmp_path):
    found = load_observer("online_swav.testing:LineageRecorder", run=tmp_path, rank=0, generation=1)
    assert isinstance(found, LineageRecorder)
    assert isinstance(load_observer(None, run=tmp_path, rank=0, generation=1), SilentObserver)


@pytest.mark.parametrize(
    ("name", "said"),
    [("online_swav.testing", "give MODULE:CLASS"),
     ("no_such_module:X", "No module named 'no_such_module'"),
     ("online_swav.testing:Nothing", "has no attribute 'Nothing'")],
)  # fmt: skip
def test_a_wrong_name_is_said(name, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        load_observer(name, run=tmp_path, rank=0, generation=1)


def _hold(folder, held, done):
    with locked_run(folder):
        held.set()
        done.wait(30)


def test_a_run_folder_has_one_driver(tmp_path):
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, done))
    other.start()
    assert held.wait(30)
    with pytest.raises(ConfigError, match=f"in use by process {other.pid}"), locked_run(tmp_path):
        pass
    other.kill()  # the kernel gives the lock back
    other.join()
    with locked_run(tmp_path):
        pass
