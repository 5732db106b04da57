"""How well scores agree with labels: accuracy for one label, average precision for several."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from online_swav.errors import ConfigError

Measures = dict[str, float]
"""Name to value in [0, 1]; the first one is what heads are chosen by."""


def measure(
    scores: Float[Tensor, "M C"], labels: Int64[Tensor, " M"] | Bool[Tensor, "M C"]
) -> Measures:
    """Top-1 (and top-5 where there are more than five classes), or both kinds of mAP."""
    if labels.dim() == 2:
        return mean_average_precision(scores, labels)
    measures = {"top-1": top_k_accuracy(scores, labels, 1)}
    if scores.shape[1] > 5:
        measures["top-5"] = top_k_accuracy(scores, labels, 5)
    return measures


def top_k_accuracy(scores: Float[Tensor, "M C"], labels: Int64[Tensor, " M"], k: int) -> float:
    """Share of images whose class is among the k highest scores; not a number is wrong."""
    right = (scores.topk(k, dim=1).indices == labels[:, None]).any(dim=1)
    return float((right & scores.isfinite().all(dim=1)).double().mean())


def mean_average_precision(scores: Float[Tensor, "M C"], labels: Bool[Tensor, "M C"]) -> Measures:
    """Mean over the classes that occur, in both ways that are in use.

    "mAP" is the area under precision over recall without interpolation, as scikit-learn's
    `average_precision_score`; "mAP 11-point" the mean of the highest precision at recall >= 0, 0.1,
    ..., 1, as the VOC 2007 development kit counts.

    Raises:
        ConfigError: If no class occurs, or scikit-learn is missing.
    """
    try:
        from sklearn.metrics import average_precision_score, precision_recall_curve
    except ImportError as error:
        raise ConfigError(
            "average precision needs scikit-learn: pip install 'online-swav[evaluate]'"
        ) from error
    present = labels.any(dim=0)
    if not present.any():
        raise ConfigError("no test image has any label")
    if not scores.isfinite().all():
        return {"mAP": 0.0, "mAP 11-point": 0.0}
    areas, points = [], []
    for truth, score in zip(
        labels[:, present].T.numpy(), scores[:, present].T.numpy(), strict=True
    ):
        areas.append(average_precision_score(truth, score))
        precision, recall, _ = precision_recall_curve(truth, score)
        # The last point is scikit-learn's own, precision 1 at recall 0, whatever ranks first.
        precision, recall = precision[:-1], recall[:-1]
        points.append(sum(precision[recall >= step / 10].max() for step in range(11)) / 11)
    return {
        "mAP": float(sum(areas) / len(areas)),
        "mAP 11-point": float(sum(points) / len(points)),
    }
