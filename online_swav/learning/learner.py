"""One step of SwAV, and all the state that the next step depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from online_swav.learning.adjustments import Adjustments
from online_swav.learning.augment import PhotometricAugment
from online_swav.learning.compilation import compiled
from online_swav.learning.config import LearnerConfig
from online_swav.learning.feature_queue import FeatureQueue
from online_swav.learning.findings import Health, HealthValues
from online_swav.learning.idle import IdleTime
from online_swav.learning.loss import swapped_prediction_loss
from online_swav.learning.model import SwavModel
from online_swav.learning.nonfinite import NonFiniteLossError, NonFiniteSteps, Snapshot
from online_swav.learning.optim import build_optimizer, load_moments
from online_swav.learning.precision import refuse_unset_gradients
from online_swav.learning.randomness import step_generator
from online_swav.learning.ranks import SINGLE_RANK, Ranks
from online_swav.learning.report import StepReport
from online_swav.learning.schedule import learning_rate, ramp
from online_swav.learning.sinkhorn import check_scores, sinkhorn
from online_swav.learning.state import require_same_layout
from online_swav.learning.upload import Upload
from online_swav.learning.vitals import StepTensors, Vitals

__all__ = ["Learner", "NonFiniteLossError", "StepReport"]

NUM_ASSIGNED = 2


def _code_values(
    codes: Float[Tensor, "A B K"], assigned: Float[Tensor, "A B D"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean code entropy, agreement of the two codes, std of embeddings; zeros without images."""
    if not codes.shape[1]:
        return codes.new_zeros(()), codes.new_zeros(()), codes.new_zeros(())
    largest = codes.argmax(dim=2)
    return (
        torch.special.entr(codes).sum(dim=2).mean(),
        (largest[0] == largest[1]).float().mean(),
        assigned[0].var(dim=0, correction=0).mean().sqrt(),
    )


class Learner:
    """A SwAV model in training.

    Every random number of a step (augmentation, stochastic layers) is drawn from a generator seeded
    by (seed, step, rank): no generator is in the state, and a resumed run repeats the same draws on
    any number of ranks.

    Args:
        config: Everything that decides what a step does.
        device: Where it runs.
        ranks: All ranks; codes, gradients and the queue are those of all of them together.
        seed: Of the initial weights and of every step's random numbers; not negative.
        wrap: Put around the model from outside: DDP, SyncBN. Identity on one rank.
        compile: Whether network and colour operations go through torch.compile.

    Raises:
        ValueError: If the backbone is unknown or unsuitable.
    """

    def __init__(
        self,
        config: LearnerConfig,
        *,
        device: torch.device | str = "cpu",
        ranks: Ranks = SINGLE_RANK,
        seed: int = 0,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
        compile: bool = False,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self._ranks = ranks
        self._seed = seed
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.model = SwavModel(
                backbone=config.model.backbone, small_stem=config.model.small_stem,
                hidden_dim=config.model.hidden_dim, embedding_dim=config.model.embedding_dim,
                num_prototypes=config.model.num_prototypes,
            )  # fmt: skip
        refuse_unset_gradients(self.model)
        self.model.to(self.device).to(memory_format=self._memory_format)
        self._plain_network = wrap(self.model)
        self._network = compiled(self._plain_network) if compile else self._plain_network
        self._upload = Upload(self.device)
        self._idle = IdleTime(self.device)
        self._optimizer = build_optimizer(self.model, config.optim)
        self._queue = FeatureQueue(
            num_views=NUM_ASSIGNED, length=config.queue.length, dim=config.model.embedding_dim
        ).to(self.device)
        augment = config.augment
        self._augment = PhotometricAugment(
            jitter=augment.jitter, jitter_p=augment.jitter_p, grayscale_p=augment.grayscale_p,
            blur_p=augment.blur_p, blur_sigma=augment.blur_sigma, mean=augment.mean,
            std=augment.std, compile=compile,
        )  # fmt: skip
        self._vitals = Vitals(config, feature_dim=self.model.feature_dim, ranks=ranks,
                              device=self.device, encode=self._encode)  # fmt: skip
        self._checked_scores = False
        self.adjustments = Adjustments()
        """What the run has changed of its recipe; set it on every rank alike."""
        self.step_count = 0
        """Steps made, skipped ones included: claims are keyed by it."""
        self.samples_seen = 0
        """Images in these steps, all ranks."""
        self._nonfinite = NonFiniteSteps(config.health.max_nonfinite_steps)

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.config.channels_last else torch.contiguous_format

    @property
    def queue_fill_ratio(self) -> float:
        """Fill of the feature queue; 0 when it is off."""
        return self._queue.filled / self._queue.length if self._queue.length else 0.0

    @property
    def nonfinite_steps(self) -> int:
        """Steps that are known to be skipped for a non-finite loss."""
        return self._nonfinite.total

    @property
    def idle_s(self) -> float | None:
        """Seconds that the GPU had no step to work on; None where the host works itself."""
        return self._idle.seconds()

    def step(
        self, crops: Sequence[UInt8[Tensor, "_ B 3 _ _"]], *, images: int | None = None
    ) -> StepReport:
        """Train on one batch: a tensor [v, B, 3, s, s] per crop family, of its own v and s.

        The first two views of the first family get codes, and every view predicts them. One of
        several ranks may bring no images (B = 0, as at the end of a stream): it takes part in every
        collective with nothing, and gets the same update.

        When loss or gradient are not finite on any rank, nothing changes on all ranks: weights,
        optimizer and queue are not touched, and the batch norm statistics, which the forward pass
        has moved, are put back from a copy. The images are spent, so `step_count` grows; the report
        says `skipped`.

        On a GPU the host does not wait for this step: the device decides about its update, and the
        host learns of it `RUN_AHEAD_STEPS` later. It waits in the first step of a process, to check
        the scores, and while the queue fills.

        Args:
            crops: Of this rank, in any memory.
            images: Of all ranks together, if the caller knows; otherwise the ranks are asked, and
                the device is waited for.

        Raises:
            NonFiniteLossError: At `health.max_nonfinite_steps` such steps in a row.
            ValueError: If there are fewer than two assigned views, the scores are no cosines
                (checked at the first step), or crops are too small for bfloat16 on a CPU.
        """
        if crops[0].shape[0] < NUM_ASSIGNED:
            raise ValueError(
                f"the first crop family has {crops[0].shape[0]} view; the codes need {NUM_ASSIGNED}"
            )
        config = self.config
        epsilon = ramp(self.step_count, config.codes.epsilon) * self.adjustments.epsilon_factor
        temperature = ramp(self.step_count, config.codes.temperature)
        lr = self._rate()
        for group in self._optimizer.param_groups:
            group["lr"] = lr

        self._idle.step_begins()
        count = crops[0].shape[1]
        total = self._total(count) if images is None else images
        statistics = Snapshot(list(self.model.buffers()))
        with step_generator(
            seed=self._seed, step=self.step_count, rank=self._ranks.rank, device=self.device
        ) as generator:
            families = [self._prepare(family, generator) for family in self._upload(crops)]
            with torch.autocast(
                self.device.type, dtype=torch.bfloat16, enabled=config.autocast == "bf16"
            ):
                # A compiled network is made for sizes; none is made for an empty batch.
                network = self._network if count else self._plain_network
                features, embeddings, scores = network(families)
        if not self._checked_scores and count:
            # NaN in a first step is a broken recipe; later it is a step to be skipped.
            fresh = self.step_count == 0 and self.adjustments == Adjustments()
            if fresh or scores.detach().isfinite().all():
                check_scores(scores)
            self._checked_scores = True
        assigned = embeddings[:NUM_ASSIGNED].detach()
        share = count / max(total, 1)
        rows = self._code_rows(scores[:NUM_ASSIGNED].detach())
        all_codes = self._codes(rows, epsilon=epsilon)
        codes = all_codes[:, :count]
        loss = swapped_prediction_loss(scores, codes, temperature=temperature)
        if self._vitals.inspection.due(self.step_count):
            self._inspect_codes(all_codes, scores, loss, epsilon, temperature, share, total)
        grad_norm = self._backward(loss, share=share)
        loss = loss.detach()

        unwell = (~(loss + grad_norm).isfinite()).float()
        # One collective for all numbers of the report: means over the images of all ranks.
        sums = self._ranks.sum(
            torch.stack([unwell, *(share * v for v in (loss, *_code_values(codes, assigned)))])
        )
        skip, (loss, code_entropy, view_agreement, embedding_std) = sums[0] > 0, sums[1:].unbind()
        # An empty batch has no statistics.
        statistics.restore(where=skip if count else torch.ones_like(skip))
        self._nonfinite.record(self.step_count, skip)
        self._update(assigned, unless=skip)
        left = StepTensors(
            images=families[0][0], features=features[0].detach(), embeddings=assigned[0],
            scores=scores[0].detach(), loss=loss, code_entropy=code_entropy,
            view_agreement=view_agreement, grad_norm=grad_norm, skipped=skip,
        )  # fmt: skip
        self._vitals.measure(
            self.step_count, left, images=total, queue=self._queue, adjustments=self.adjustments,
            prototypes=self.model.prototypes.weight.detach().float(),
        )  # fmt: skip
        self._idle.step_ended()
        self.step_count += 1
        self.samples_seen += total
        return StepReport(
            step=self.step_count, samples=total, lr=lr, epsilon=epsilon,
            temperature=temperature, skipped=skip, loss=loss, grad_norm=grad_norm,
            code_entropy=code_entropy, view_agreement=view_agreement, embedding_std=embedding_std,
            prototype_mass=codes.sum(dim=(0, 1)) / max(NUM_ASSIGNED * count, 1),
            embedding_dim=embeddings.shape[2],
        )  # fmt: skip

    def health_values(self) -> HealthValues:
        """What health rests on. A collective: every rank must call it at the same step.

        Waits for the device.
        """
        return self._vitals.values(self.step_count, self._queue)

    def health(self, values: HealthValues | None = None) -> Health:
        """Verdict and findings; what was found at earlier calls counts too.

        Args:
            values: Of `health_values` at this step; without it a collective, as that is.
        """
        self._nonfinite.settle()
        return self._vitals.judge(
            values or self.health_values(), step=self.step_count, adjustments=self.adjustments,
            recent_nonfinite=self._nonfinite.recent(self.step_count),
        )  # fmt: skip

    # -- parts of a step -----------------------------------------------------------------------

    def _total(self, count: int) -> int:
        if self._ranks.size == 1:
            return count
        return int(self._ranks.sum(torch.full((), float(count), device=self.device)))

    def _prepare(
        self, family: UInt8[Tensor, "v b 3 s s"], generator: torch.Generator
    ) -> Float[Tensor, "v b 3 s s"]:
        """Augmented crops."""
        flat = family.flatten(0, 1)
        images = self._augment.apply(flat, self._augment.draw(len(flat), generator=generator))
        images = images.contiguous(memory_format=self._memory_format)
        return images.view(family.shape)

    def _code_rows(self, scores: Float[Tensor, "A B K"]) -> Float[Tensor, "A N K"]:
        """Scores of the batch, then those of this rank's share of the queue if it counts."""
        if not self._queue.full:
            return scores
        share = self._queue.share(rank=self._ranks.rank, size=self._ranks.size)
        prototypes = self.model.prototypes.weight.detach().float()
        return torch.cat([scores, share @ prototypes.T], dim=1)

    def _codes(self, rows: Float[Tensor, "A N K"], *, epsilon: float) -> Float[Tensor, "A N K"]:
        """Codes of all rows, each assigned view by its own Sinkhorn."""
        codes = [
            sinkhorn(view, epsilon=epsilon, iterations=self.config.codes.iterations,
                     ranks=self._ranks)
            for view in rows
        ]  # fmt: skip
        return torch.stack(codes)

    def _backward(self, loss: Float[Tensor, ""], *, share: float) -> Float[Tensor, ""]:
        """Gradients and their norm; frozen prototypes get none.

        DDP averages over ranks: the weight makes it the mean over all images, however they lie.
        """
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss * (share * self._ranks.size))
        if self._prototypes_frozen:
            self.model.prototypes.weight.grad = None
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads)

    def _update(self, assigned: Float[Tensor, "A B D"], *, unless: Bool[Tensor, ""]) -> None:
        self._optimizer.found_inf = unless.float()  # type: ignore[attr-defined]
        self._optimizer.step()
        if not self._prototypes_frozen:
            self.model.normalize_prototypes(unless=unless)
        if self._queue.length and self.step_count >= self.config.queue.start_step:
            filled = self._queue.filled
            gathered = self._ranks.gather(assigned, 1)
            self._queue.push(gathered, step=self.step_count, unless=unless)
            if filled < self._queue.length:
                self._nonfinite.settle()
                if self._nonfinite.in_a_row:
                    self._queue.filled = filled

    @property
    def _prototypes_frozen(self) -> bool:
        frozen_until = self.adjustments.frozen_until_step
        return self.step_count < max(self.config.codes.freeze_prototypes_steps, frozen_until)

    def _rate(self) -> float:
        """The rate of the update that completes the next step."""
        config = self.config
        rate = learning_rate(self.step_count, peak_lr=config.optim.lr, config=config.schedule)
        return rate * self.adjustments.lr_factor

    # -- health --------------------------------------------------------------------------------

    def _encode(
        self, images: Float[Tensor, "b 3 s s"]
    ) -> tuple[Float[Tensor, "b D"], Float[Tensor, "b K"]]:
        """Embeddings and scores in eval mode."""
        self.model.eval()
        with torch.no_grad(), torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.config.autocast == "bf16"
        ):  # fmt: skip
            _, embeddings, scores = self.model([images.unsqueeze(0)])
        self.model.train()
        return embeddings[0], scores[0]

    def _inspect_codes(
        self, all_codes: Float[Tensor, "A N K"], scores: Float[Tensor, "V B K"],
        loss: Float[Tensor, ""], epsilon: float, temperature: float, share: float, total: int,
    ) -> None:  # fmt: skip
        """The marginals, and what the queue does to the loss."""
        with_queue = alone = None
        scores = scores.detach()
        # A batch of fewer images than prototypes has no codes of its own worth comparing with.
        if self._queue.full and total >= scores.shape[2]:
            codes = self._codes(scores[:NUM_ASSIGNED], epsilon=epsilon)
            alone = share * swapped_prediction_loss(scores, codes, temperature=temperature)
            with_queue = share * loss.detach()
        self._vitals.inspection.record_codes(all_codes, with_queue=with_queue, alone=alone)

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on; loads with `torch.load(weights_only=True)`.

        Nothing in it is shaped by the number of ranks. Rates and decay are the configuration's.
        """
        self._nonfinite.settle()
        return {
            "model": self.model.state_dict(),
            "optimizer": {
                "kind": self.config.optim.kind,
                "state": self._optimizer.state_dict()["state"],
            },
            "queue": self._queue.state_dict(),
            "vitals": self._vitals.state_dict(),
            "counters": {
                "step_count": self.step_count,
                "samples_seen": self.samples_seen,
                "nonfinite_steps": self._nonfinite.total,
                "nonfinite_in_a_row": self._nonfinite.in_a_row,
                "recent_nonfinite_steps": list(self._nonfinite.steps),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`. Refused whole: a state that does not fit changes nothing.

        Raises:
            ValueError: If the state is that of another configuration; the field is named.
        """
        own = self.state_dict()
        own["optimizer"]["state"] = None  # empty before the first step
        require_same_layout("state", own, state)
        self.model.load_state_dict(state["model"])
        self._queue.load_state_dict(state["queue"])
        self._vitals.load_state_dict(state["vitals"])
        load_moments(self._optimizer, state["optimizer"]["state"])
        counters = state["counters"]
        self.step_count = int(counters["step_count"])
        self.samples_seen = int(counters["samples_seen"])
        self._nonfinite.total = int(counters["nonfinite_steps"])
        self._nonfinite.in_a_row = int(counters["nonfinite_in_a_row"])
        self._nonfinite.steps.clear()
        self._nonfinite.steps.extend(int(step) for step in counters["recent_nonfinite_steps"])
        self._checked_scores = False
