"""Several ranks in real processes (gloo): DDP, SyncBN, Sinkhorn and the queue against one rank."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("process_ranks.py")
pytestmark = pytest.mark.timeout(240)


def train(folder, *, ranks, first, last):
    """Train steps first..last-1 on `ranks` processes; state and reports of rank 0."""
    processes = [
        subprocess.Popen([sys.executable, SCRIPT, folder, str(rank), str(ranks), str(first),
                          str(last)], stderr=subprocess.PIPE)
        for rank in range(ranks)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, errors
    return (torch.load(folder / f"state-{last}.pt", weights_only=True),
            torch.load(folder / f"said-{last}.pt", weights_only=True))  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), ranks=1, first=0, last=10)


def assert_same_weights(state, alone):
    """To 5% of each tensor's way in 10 steps, and the queue to 0.01.

    The float32 noise of another order of sums starts at 1e-5 and grows about threefold per step.
    """
    expected, said = alone
    for name, value in expected["model"].items():
        way = (value - said["start"][name]).float().norm()
        # A bias before a batch norm has no gradient but noise.
        assert way > 1e-4 or name == "projection_head.0.bias", name
        assert (state["model"][name] - value).float().norm() <= 0.05 * way + 1e-6, name
    torch.testing.assert_close(
        state["queue"]["features"], expected["queue"]["features"], atol=0.01, rtol=0
    )
    assert state["counters"] == expected["counters"]


def test_two_ranks_make_the_codes_and_weights_of_one(tmp_path, alone):
    """Shares of 5 and 3 images, at two steps 8 and 0."""
    state, said = train(tmp_path, ranks=2, first=0, last=10)
    said_alone = alone[1]
    torch.testing.assert_close(said["codes"], said_alone["codes"], atol=1e-5, rtol=0)
    assert_same_weights(state, alone)
    for (samples, loss, norm, agreement), one in zip(
        said["reports"], said_alone["reports"], strict=True
    ):
        assert samples == one[0] == 8
        assert loss == pytest.approx(one[1], rel=2e-3)
        assert norm == pytest.approx(one[2], rel=1e-2)
        assert agreement == pytest.approx(one[3], abs=1e-5)


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, alone):
    """2 ranks, then 1, then 3 from each other's states: the weights of one rank throughout."""
    train(tmp_path, ranks=2, first=0, last=4)
    train(tmp_path, ranks=1, first=4, last=6)
    state, _ = train(tmp_path, ranks=3, first=6, last=10)
    assert_same_weights(state, alone)
