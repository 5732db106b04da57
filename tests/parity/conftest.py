"""Several ranks in one process: one thread each, collectives over a barrier."""

import threading

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors: a pool of threads costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class _Meeting:
    """Where the threads of a group exchange tensors."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=60)
        self.slots = [None] * size


class ThreadRanks:
    """`Ranks` over threads."""

    def __init__(self, rank, size, meeting):
        self.rank = rank
        self.size = size
        self._meeting = meeting

    def _exchange(self, tensor):
        self._meeting.slots[self.rank] = tensor.clone()
        self._meeting.barrier.wait()
        everyone = list(self._meeting.slots)
        self._meeting.barrier.wait()
        return everyone

    def sum(self, tensor):
        return torch.stack(self._exchange(tensor)).sum(dim=0)

    def max(self, tensor):
        return torch.stack(self._exchange(tensor)).amax(dim=0)

    def gather(self, tensor, dim):
        return torch.cat(self._exchange(tensor), dim=dim)


@pytest.fixture
def on_ranks():
    """`on_ranks(size, work)`: the results of `work(ranks)` on every rank.

    `prepare(ranks)` runs before, one rank after the other, and its result goes to `work`: torch's
    seed belongs to the whole process, so models cannot be built side by side.
    """

    def run(size, work, *, prepare=lambda ranks: ranks):
        meeting = _Meeting(size)
        prepared = [prepare(ThreadRanks(rank, size, meeting)) for rank in range(size)]
        results, errors = [None] * size, []

        def target(rank):
            try:
                results[rank] = work(prepared[rank])
            except BaseException as error:
                errors.append(error)
                meeting.barrier.abort()

        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    return run
