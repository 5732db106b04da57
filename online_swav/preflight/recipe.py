"""Recipes that are known to fail, with the numbers. Pure: reads the options and nothing else.

Each rule is a way in which people's SwAV runs have failed; where a number is the official recipe's
it says so.
"""

from __future__ import annotations

from collections.abc import Callable

from online_swav.config import RunConfig
from online_swav.learning.config import RampConfig
from online_swav.preflight.check import Check, ok, refusal, warning

FEWEST_IMAGES_PER_PROTOTYPE = 0.05
LARGEST_EPSILON, SMALLEST_EPSILON = 0.1, 0.005
RATE_PER_256 = {"lars": (0.3, 0.6), "sgd": (0.3, 0.6), "adamw": (1e-3, 1e-3)}
"""Rates of recipes that work, for 256 images per step; the rate grows with the images."""
RATE_TOLERANCE = 4
QUEUE_BATCHES_AT_START = 2
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def recipe_checks(config: RunConfig) -> list[Check]:
    """What is wrong with a recipe, after its images per prototype, which are always told."""
    return [check for rule in _RULES if (check := rule(config)) is not None]


def images_per_prototype(config: RunConfig) -> float:
    """(batch + queue) / K."""
    rows = config.global_batch_size + config.learner.queue.length
    return rows / config.learner.model.num_prototypes


def _images_per_prototype(config: RunConfig) -> Check:
    ratio = images_per_prototype(config)
    numbers = (
        f"(batch + queue) / K = ({config.global_batch_size} + {config.learner.queue.length}) / "
        f"{config.learner.model.num_prototypes} = {ratio:.2f}"
    )
    advice = (
        "Raise --learner.queue.length or --ingest.batch-size, or lower "
        "--learner.model.num-prototypes."
    )
    if ratio < FEWEST_IMAGES_PER_PROTOTYPE:
        return refusal(
            "images_per_prototype",
            f"{numbers} is under {FEWEST_IMAGES_PER_PROTOTYPE}: so few images cannot be spread "
            f"over so many prototypes, and the loss stays at log K. {advice}",
        )
    if ratio < 1:
        return warning(
            "images_per_prototype",
            f"{numbers} is under 1: fewer images than prototypes share a code problem "
            f"(the official recipes keep 1.37). {advice}",
        )
    return ok("images_per_prototype", f"{numbers}; at least 1 is right")


def _epsilon(config: RunConfig) -> Check | None:
    values = _values(config.learner.codes.epsilon)
    if max(values) > LARGEST_EPSILON:
        return warning(
            "epsilon",
            f"epsilon {max(values):g} is over {LARGEST_EPSILON:g}: codes are near uniform, and the "
            "loss stays at log K. Official is 0.05, small models need 0.01 to 0.03: lower "
            "--learner.codes.epsilon.start and .end.",
        )
    if min(values) < SMALLEST_EPSILON:
        return warning(
            "epsilon",
            f"epsilon {min(values):g} is under {SMALLEST_EPSILON:g}: codes are one-hot, and noise "
            "decides them. Official is 0.05: raise --learner.codes.epsilon.start and .end.",
        )
    return None


def _temperature(config: RunConfig) -> Check | None:
    codes = config.learner.codes
    temperature, epsilon = _values(codes.temperature), _values(codes.epsilon)
    if max(temperature) >= max(epsilon):
        return None
    return warning(
        "temperature",
        f"temperature {max(temperature):g} is under epsilon {max(epsilon):g}: predictions are "
        "sharper than the codes they should match (official: 0.1 and 0.05). Raise "
        "--learner.codes.temperature.start and .end, or lower epsilon.",
    )


def _two_crops(config: RunConfig) -> Check | None:
    crops = sum(family.num for family in config.crops)
    if crops > 2 or images_per_prototype(config) >= 1:
        return None
    return warning(
        "two_crops",
        f"2 crops per image and {images_per_prototype(config):.2f} images per prototype: this is "
        "known to collapse. Add a family of small crops to `crops`, or a queue "
        "(--learner.queue.length).",
    )


def _learning_rate(config: RunConfig) -> Check | None:
    optim, images = config.learner.optim, config.global_batch_size
    low, high = _rates(config)
    if low / RATE_TOLERANCE <= optim.lr <= high * RATE_TOLERANCE:
        return None
    usual = f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"
    return warning(
        "learning_rate",
        f"lr {optim.lr:g} is more than {RATE_TOLERANCE} times "
        f"{'under' if optim.lr < low else 'over'} what {optim.kind} takes for {images} images per "
        f"step: {usual}. No scaling is applied; set --learner.optim.lr.",
    )


def _prototype_freeze(config: RunConfig) -> Check | None:
    low, _ = _rates(config)
    lr = config.learner.optim.lr
    if config.learner.codes.freeze_prototypes_steps or lr < low:
        return None
    return warning(
        "prototype_freeze",
        f"prototypes move from step 0 at lr {lr:g}: with a rate of {low:.2g} or more they fall "
        "together before the features mean anything. Set --learner.codes.freeze-prototypes-steps "
        "(official: the first epoch; 300 is usual here).",
    )


def _schedule(config: RunConfig) -> Check | None:
    schedule = config.learner.schedule
    if schedule.kind == "hold" or schedule.final_lr > 0 or config.when_idle == "stop":
        return None
    horizon = schedule.total_steps or 0
    last = config.stop_after_steps or horizon + 1
    if config.stop_after_samples is not None:
        last = min(last, config.stop_after_samples // config.global_batch_size)
    if last <= horizon:
        return None
    return warning(
        "schedule",
        f"the rate reaches 0 at step {horizon} and stays there, but the stream goes on "
        f"(--when-idle {config.when_idle}): learning ends without a word. Set "
        "--learner.schedule.final-lr, --learner.schedule.kind hold (with total-steps None), or "
        f"--stop-after-steps {horizon}.",
    )


def _queue_start(config: RunConfig) -> Check | None:
    queue, batch = config.learner.queue, config.global_batch_size
    if queue.start_step or queue.length <= QUEUE_BATCHES_AT_START * batch:
        return None
    return warning(
        "queue_start",
        f"the queue of {queue.length} ({queue.length / batch:.0f} batches) is used as soon as it "
        "is full, when its embeddings are those of a network that moves fast: the loss may bounce "
        "back to log K. Set --learner.queue.start-step (official: epoch 15).",
    )


def _small_crops(config: RunConfig) -> Check | None:
    """See `learning.precision`: one-pixel maps before a strided convolution."""
    model, smallest = config.learner.model, min(family.size for family in config.crops)
    residual = model.backbone.startswith(("resnet", "resnext", "wide_resnet"))
    halvings = 2 if model.small_stem else 4
    too_small = residual and smallest <= 2**halvings
    if not too_small or config.learner.autocast != "bf16" or config.device == "cuda":
        return None
    text = (
        f"crops of {smallest} px are one pixel before the last stage of {model.backbone}, where "
        "bfloat16 on a CPU gives wrong gradients; the learner stops there. Use crops of "
        f"{2**halvings + 1} px or more, or --learner.autocast off."
    )
    # What `auto` finds is known on the learner's machine only.
    if config.device != "cpu":
        return warning("small_crops", text)
    return refusal("small_crops", text, final=True)


def _batch_of_one(config: RunConfig) -> Check | None:
    if config.ingest.batch_size > 1:
        return None
    return warning(
        "batch_of_one",
        "a batch of 1 image: batch norm sees the crops of a single picture, and nothing is left "
        "to tell apart. Raise --ingest.batch-size; 64 or more is usual.",
    )


def _metrics_host(config: RunConfig) -> Check | None:
    metrics = config.metrics
    if metrics.host in _LOOPBACK:
        return None
    return warning(
        "metrics_host",
        f"metrics listen on {metrics.host}: whoever reaches port {metrics.port} can read the "
        "run's numbers; there is no password. --metrics.host 127.0.0.1 keeps them here.",
    )


def _probe_size(config: RunConfig) -> Check | None:
    if not config.probe_train or config.probe.size >= 32:
        return None
    return warning(
        "probe_size",
        f"the probe sees pictures of {config.probe.size} px, small for a backbone: its accuracy "
        "says little. Raise --probe.size to 32 or more.",
    )


_RULES: tuple[Callable[[RunConfig], Check | None], ...] = (
    _images_per_prototype, _epsilon, _temperature, _two_crops, _learning_rate, _prototype_freeze,
    _schedule, _queue_start, _small_crops, _batch_of_one, _metrics_host, _probe_size,
)  # fmt: skip


def _values(ramp: RampConfig) -> tuple[float, ...]:
    """What the ramp passes through; without steps its start is never used."""
    return (ramp.start, ramp.end) if ramp.steps else (ramp.end,)


def _rates(config: RunConfig) -> tuple[float, float]:
    """The usual rates for the configured images per step."""
    low, high = RATE_PER_256[config.learner.optim.kind]
    scale = config.global_batch_size / 256
    return low * scale, high * scale
