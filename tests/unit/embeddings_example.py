"""A run that has published a small encoder of random weights, and shards to embed."""

import torch

from online_swav.config import RunConfig, to_yaml
from online_swav.learning.model import build_backbone
from online_swav.published import Published
from streams.testing import jpeg_bytes
from tests.builders import tar_of

BACKBONE, DIM, PROTOTYPES = "shufflenet_v2_x0_5", 1024, 7


def publish(run, *, step, seed):
    """Another encoder of the run, of the weights of `seed`."""
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text(to_yaml(RunConfig(run=str(run))))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone, _ = build_backbone(BACKBONE, small_stem=False)
        head = {
            "projection_head.weight": torch.randn(8, DIM) / 32,
            "projection_head.bias": torch.zeros(8),
            "prototypes.weight": torch.randn(PROTOTYPES, 8),
        }
    card = {
        "backbone": BACKBONE, "small_stem": False, "config_digest": "0" * 12,
        "preprocessing": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }  # fmt: skip
    return Published(run, keep=1).publish(backbone, step=step, card=card, head=head).path


def write_shards(folder, *, shards=3, samples=5):
    """Good samples `a-0` and so on in `a.tar`, `b.tar`, ..."""
    folder.mkdir()
    for number, name in enumerate("abcdefgh"[:shards]):
        members = [(f"{name}-{i}.jpg", jpeg_bytes(10 * number + i)) for i in range(samples)]
        tar_of(folder / f"{name}.tar", members)
    return folder
