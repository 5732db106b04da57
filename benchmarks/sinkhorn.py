"""Sinkhorn-Knopp alone: time, and worst error against float64, beside the official and lightly's.

    python benchmarks/sinkhorn.py --official path/to/swav --out benchmarks/results/sinkhorn-cpu.json

Contenders take turns. The error is the largest difference of a code to the same iterations in
float64 on the same scores; "fails" stands for codes that are not finite or no distributions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import by_turns, machine, ratio, seconds, spread, write_json
from peers import EPSILON, ITERATIONS, Sinkhorn, lightly_sinkhorn, official_sinkhorn
from rich.console import Console
from rich.table import Table
from torch import Tensor

from online_swav.learning.sinkhorn import sinkhorn

SIZES = {"full": [(b, k) for b in (256, 4096) for k in (300, 3000, 16000)], "toy": [(32, 20)]}


def ours(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """This project's."""
    return sinkhorn(scores, epsilon=epsilon, iterations=iterations)


def cosines(rows: int, prototypes: int, device: str) -> Tensor:
    """Scores `[rows, K]` of random embeddings of 128 dimensions."""
    generator = torch.Generator().manual_seed(0)
    unit = [F.normalize(torch.randn(n, 128, generator=generator), dim=1)
            for n in (rows, prototypes)]  # fmt: skip
    return (unit[0] @ unit[1].T).to(device)


def in_float64(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """On logarithms, in double precision, as paper section 3.1 has it."""
    log_q = scores.double() / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(dim=0)
        log_q = log_q.log_softmax(dim=1)
    return log_q.exp()


def worst_error(codes: Tensor, expected: Tensor) -> float | str:
    """Largest difference, or that the codes are none."""
    codes = codes.double()
    sums = codes.sum(dim=1)
    if not bool(codes.isfinite().all()) or float((sums - 1).abs().max()) > 0.01:
        return "fails"
    return float((codes - expected).abs().max())


def hard_scores(rows: int, prototypes: int, device: str) -> dict[str, tuple[Tensor, float]]:
    """Scores and epsilon of cases in which the linear domain or half precision has trouble."""
    scores = cosines(rows, prototypes, device)
    # Embeddings that lie close to a prototype, as after training: cosines up to 1.
    close = scores.clone()
    index = torch.arange(rows, device=device)
    close[index, index % prototypes] = 0.95
    far = scores.clone()
    far[0] = -1.0
    return {
        "epsilon 0.05": (scores, 0.05),
        "epsilon 0.02": (close, 0.02),
        "epsilon 0.01": (close, 0.01),
        "half-precision scores, 0.05": (close.half(), 0.05),
        "a sample at cosine -1 to all, 0.02": (far, 0.02),
        "a sample at cosine -1 to all, 0.01": (far, 0.01),
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, help="checkout of facebookresearch/swav")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sizes", default="full", choices=tuple(SIZES))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON with the result")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    contenders: dict[str, Sinkhorn] = {"ours": ours}
    if options.official is not None:
        contenders["official"] = official_sinkhorn(options.official)
    if (peer := lightly_sinkhorn()) is not None:
        contenders["lightly"] = peer
    console = Console(width=110)

    times = Table(title=f"Sinkhorn-Knopp, {ITERATIONS} iterations, ms (spread)")
    for column in ("B x K", *contenders, *(f"{name} / ours" for name in [*contenders][1:])):
        times.add_column(column, justify="right")
    timed = []
    for rows, prototypes in SIZES[options.sizes]:
        scores = cosines(rows, prototypes, options.device)

        def run(function: Sinkhorn, scores: Tensor = scores) -> float:
            call: Callable[[], object] = partial(function, scores, EPSILON, ITERATIONS)
            return 1e3 * seconds(call, options.device)

        taken = by_turns({name: partial(run, f) for name, f in contenders.items()},
                         options.repetitions)  # fmt: skip
        ratios = {name: ratio(ms, taken["ours"]) for name, ms in taken.items() if name != "ours"}
        timed.append({"B": rows, "K": prototypes, "slower_than_ours_by": ratios,
                      "ms": {name: spread(ms, 2) for name, ms in taken.items()}})  # fmt: skip
        cells = [f"{s['median']:.2f} ({s['min']:.2f} to {s['max']:.2f})"
                 for s in (spread(ms, 2) for ms in taken.values())]  # fmt: skip
        times.add_row(f"{rows} x {prototypes}", *cells, *(f"{r:.2f}" for r in ratios.values()))
    console.print(times)

    rows, prototypes = SIZES[options.sizes][min(1, len(SIZES[options.sizes]) - 1)]
    errors = Table(title=f"worst error of a code against float64, {rows} x {prototypes}")
    for column in ("", *contenders):
        errors.add_column(column, justify="right")
    judged: dict[str, dict[str, Any]] = {}
    for name, (scores, epsilon) in hard_scores(rows, prototypes, options.device).items():
        expected = in_float64(scores, epsilon, ITERATIONS)
        judged[name] = {
            who: worst_error(function(scores.clone(), epsilon, ITERATIONS), expected)
            for who, function in contenders.items()
        }
        errors.add_row(name, *(e if isinstance(e, str) else f"{e:.1e}"
                               for e in judged[name].values()))  # fmt: skip
    console.print(errors)
    write_json(options.out, {
        "machine": machine("torch", "lightly"), "threads": torch.get_num_threads(),
        "times": timed, "worst_error": judged,
    })  # fmt: skip


if __name__ == "__main__":
    main()
