"""Several ranks in one process: one thread each, collectives over a barrier."""

import threading

import pytest
import torch


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
    """`on_ranks(size, work)`: the results of `work(ranks)` on every rank."""

    def run(size, work):
        meeting = _Meeting(size)
        results, errors = [None] * size, []

        def target(rank):
            try:
                results[rank] = work(ThreadRanks(rank, size, meeting))
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
