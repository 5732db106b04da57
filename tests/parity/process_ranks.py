"""Runs in each process of a real gloo group: train on a share of the images, save what became."""

import copy
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from online_swav.learning.config import (
    AugmentConfig,
    CodesConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    QueueConfig,
    RampConfig,
    ScheduleConfig,
)
from online_swav.learning.learner import Learner
from online_swav.learning.sinkhorn import sinkhorn
from online_swav.parallel import current_ranks, wrapper

CONFIG = LearnerConfig(
    model=ModelConfig(small_stem=True, hidden_dim=16, embedding_dim=8, num_prototypes=6),
    codes=CodesConfig(
        freeze_prototypes_steps=2,
        epsilon=RampConfig(start=0.1, end=0.1),
        temperature=RampConfig(start=0.5, end=0.5),
    ),
    queue=QueueConfig(length=16, start_step=0),
    augment=AugmentConfig(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0),
    optim=OptimConfig(kind="sgd", lr=0.0005),
    schedule=ScheduleConfig(warmup_steps=2),
    sync_batch_norm=True,
)
IMAGES = 8


def batch(step):
    """Crops [2, 8, 3, 16, 16] and [1, 8, 3, 12, 12] of a step."""
    generator = torch.Generator().manual_seed(step)
    return [
        torch.randint(0, 256, (views, IMAGES, 3, side, side), generator=generator).byte()
        for views, side in ((2, 16), (1, 12))
    ]


def share(step, rank, size):
    """Unequal parts of a batch; at step 3 and 7 the last of several ranks gets nothing."""
    cuts = [0, IMAGES] if size == 1 else [0, *range(5, 5 + size - 1), IMAGES]
    if size > 1 and step in (3, 7):
        cuts[-2] = IMAGES
    return slice(cuts[rank], cuts[rank + 1])


def train(folder, first, last):
    ranks = current_ranks()
    torch.manual_seed(ranks.rank)  # ranks do not agree by luck
    device = torch.device("cpu")
    learner = Learner(
        CONFIG, device=device, ranks=ranks, seed=3,
        wrap=wrapper(ranks, device=device, sync_batch_norm=True),
    )  # fmt: skip
    if first:
        learner.load_state_dict(torch.load(folder / f"state-{first}.pt", weights_only=True))
    reports, start = [], copy.deepcopy(learner.model.state_dict())
    for step in range(first, last):
        part = share(step, ranks.rank, ranks.size)
        report = learner.step([crops[:, part] for crops in batch(step)]).to_host()
        reports.append((report.samples, report.loss, report.grad_norm, report.view_agreement))
    scores = torch.nn.functional.normalize(
        torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    )
    cut = [0, 40] if ranks.size == 1 else [0, *range(11, 11 + ranks.size - 1), 40]
    mine = scores[cut[ranks.rank] : cut[ranks.rank + 1]]
    codes = ranks.gather(sinkhorn(mine, epsilon=0.05, iterations=3, ranks=ranks), 0)
    if ranks.rank == 0:
        torch.save(learner.state_dict(), folder / f"state-{last}.pt")
        torch.save({"reports": reports, "codes": codes, "start": start}, folder / f"said-{last}.pt")


def main():
    folder, rank, size, first, last = Path(sys.argv[1]), *map(int, sys.argv[2:])
    torch.set_num_threads(1)
    if size > 1:
        meeting = f"file://{folder}/meeting-{first}-{size}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    train(folder, first, last)
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()
        # All is written. Python's own way out now and then aborts in a thread of gloo.
        os._exit(0)


if __name__ == "__main__":
    main()
