"""Photometric augmentation of a whole batch of crops at once, on their device.

Order and probabilities of the official code: colour jitter (its four operations in random order),
grayscale, Gaussian blur, normalisation. Every crop draws its own parameters. The operations are
those of torchvision.transforms.v2.functional on float images in [0, 1].

Parameters are drawn and sorted on the host: which crops take part in an operation is known there,
so nothing waits for the device, and each operation touches only the crops that drew it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from online_swav.learning.compilation import compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentParameters:
    """What was drawn for N crops. On the host, whatever the device of the crops."""

    jitter: Bool[Tensor, " N"]
    """Whether colour jitter applies."""
    order: Int[Tensor, "N 4"]
    """Order of brightness (0), contrast (1), saturation (2), hue (3)."""
    factors: Float[Tensor, "N 4"]
    """Factor of each operation; for hue the shift in turns, in [-0.5, 0.5]."""
    grayscale: Bool[Tensor, " N"]
    """Whether the crop becomes gray."""
    blur: Bool[Tensor, " N"]
    """Whether the crop is blurred."""
    sigma: Float[Tensor, " N"]
    """Of the blur, in pixels."""


class PhotometricAugment:
    """Draws parameters and applies them.

    Args:
        jitter: Strength of brightness, contrast, saturation, hue.
        jitter_p: Probability of jitter.
        grayscale_p: Probability of grayscale.
        blur_p: Probability of blur.
        blur_sigma: Range of sigma, in pixels.
        mean: Subtracted per channel.
        std: Divided by per channel.
        compile: Whether the colour operations go through torch.compile: on a GPU they are many
            small passes over the memory, which it makes one.
    """

    def __init__(
        self,
        *,
        jitter: tuple[float, float, float, float],
        jitter_p: float,
        grayscale_p: float,
        blur_p: float,
        blur_sigma: tuple[float, float],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        compile: bool = False,
    ) -> None:
        self._jitter = jitter
        self._jitter_p = jitter_p
        self._grayscale_p = grayscale_p
        self._blur_p = blur_p
        self._blur_sigma = blur_sigma
        self._mean = mean
        self._std = std
        self._adjust = [compiled(a, dynamic=True) if compile else a for a in _ADJUSTMENTS]

    def draw(self, num: int, *, generator: torch.Generator) -> AugmentParameters:
        """Parameters of `num` crops; the generator is one of the host."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        strength = torch.tensor(self._jitter)
        low, high = 1 - strength, 1 + strength
        low[:3].clamp_(min=0)
        low[3], high[3] = -strength[3], strength[3]
        sigma_low, sigma_high = self._blur_sigma
        return AugmentParameters(
            jitter=uniform(num) < self._jitter_p,
            order=uniform(num, 4).argsort(dim=1),
            factors=low + (high - low) * uniform(num, 4),
            grayscale=uniform(num) < self._grayscale_p,
            blur=uniform(num) < self._blur_p,
            sigma=sigma_low + (sigma_high - sigma_low) * uniform(num),
        )

    def apply(
        self, crops: UInt8[Tensor, "N 3 S S"], parameters: AugmentParameters
    ) -> Float[Tensor, "N 3 S S"]:
        """The augmented, normalised crops in float32, on their device."""
        # Planes, since the colour of a crop is changed channel by channel.
        images = crops.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        self._color_jitter(images, parameters)
        gray = _where(parameters.grayscale, images.device)
        if gray is not None:
            images[gray] = _to_gray(images[gray]).expand(-1, 3, -1, -1)
        blurred = _where(parameters.blur, images.device)
        if blurred is not None:
            sigma = parameters.sigma[parameters.blur].to(images.device, non_blocking=True)
            images[blurred] = gaussian_blur(
                images[blurred], sigma, largest_sigma=self._blur_sigma[1]
            )
        for channel, (mean, std) in enumerate(zip(self._mean, self._std, strict=True)):
            images[:, channel].sub_(mean).div_(std)
        return images

    def _color_jitter(
        self, images: Float[Tensor, "N 3 S S"], parameters: AugmentParameters
    ) -> None:
        """In place. Each slot of the order runs each operation once, on those that have it there.

        Four slots by four operations are sixteen passes, over a quarter of the crops each.
        """
        for slot in range(4):
            for number, adjust in enumerate(self._adjust):
                chosen = parameters.jitter & (parameters.order[:, slot] == number)
                index = _where(chosen, images.device)
                if index is not None:
                    factor = parameters.factors[chosen, number].view(-1, 1, 1, 1)
                    adjust(images, index, factor.to(images.device, non_blocking=True))


def _where(chosen: Bool[Tensor, " N"], device: torch.device) -> Int[Tensor, " n"] | None:
    """Positions of the chosen crops on the device; None when there are none."""
    index = chosen.nonzero().squeeze(1)
    return index.to(device, non_blocking=True) if len(index) else None


def _to_gray(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)


def _brightness(images: Tensor, index: Tensor, factor: Tensor) -> None:
    images[index] = images[index].mul_(factor).clamp_(0, 1)


def _contrast(images: Tensor, index: Tensor, factor: Tensor) -> None:
    chosen = images[index]
    mean = _to_gray(chosen).mean(dim=(1, 2, 3), keepdim=True)
    images[index] = torch.lerp(mean, chosen, factor).clamp_(0, 1)


def _saturation(images: Tensor, index: Tensor, factor: Tensor) -> None:
    chosen = images[index]
    images[index] = torch.lerp(_to_gray(chosen), chosen, factor).clamp_(0, 1)


def _hue(images: Tensor, index: Tensor, factor: Tensor) -> None:
    """`factor` is in turns."""
    images[index] = _rotate_hue(images[index], factor)


_ADJUSTMENTS = (_brightness, _contrast, _saturation, _hue)
"""In place on the crops at `index` [n], with a factor [n, 1, 1, 1]; numbered as in `order`."""


def _rotate_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue by `shift` turns, through HSV with the hue in sextants."""
    red, green, blue = images.unbind(dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # A gray pixel has chroma 0 and any hue: 0 / tiny is a valid one.
    per_chroma = chroma.clamp_min(1e-12).reciprocal_()
    hue = torch.where(
        value == red,
        (green - blue).mul_(per_chroma),
        torch.where(
            value == green,
            (blue - red).mul_(per_chroma).add_(2),
            (red - green).mul_(per_chroma).add_(4),
        ),
    ).add_(shift.view(-1, 1, 1), alpha=6)
    # Closed form of HSV -> RGB: a channel loses the chroma as far as its own hue is away, full from
    # two sextants on: v - c * clamp(2 - distance(hue + 2, own hue), 0, 1) on a circle of six.
    result = torch.empty_like(images)
    for channel, offset in enumerate((3.0, 1.0, -1.0)):
        distance = hue + offset
        distance.sub_(distance.div(6).round_(), alpha=6).abs_()
        share = distance.neg_().add_(2).clamp_(0, 1)
        result[:, channel] = value - share.mul_(chroma)
    return result


def blur_kernel_size(largest_sigma: float, side: int) -> int:
    """Odd width that covers three sigma on both sides, within what reflection padding allows."""
    width = 2 * int(3 * largest_sigma + 0.5) + 1
    return max(1, min(width, 2 * side - 1))


def gaussian_blur(
    images: Float[Tensor, "N 3 S S"], sigma: Float[Tensor, " N"], *, largest_sigma: float
) -> Float[Tensor, "N 3 S S"]:
    """Blur each image with its own sigma: two grouped 1-d convolutions, reflected edges."""
    num, channels, side, _ = images.shape
    size = blur_kernel_size(largest_sigma, side)
    half = size // 2
    positions = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    kernels = torch.exp(-0.5 * (positions / sigma.view(-1, 1)) ** 2)
    kernels = kernels / kernels.sum(dim=1, keepdim=True)
    weight = kernels.repeat_interleave(channels, dim=0)
    stacked = F.pad(images, (half, half, half, half), mode="reflect").reshape(
        1, num * channels, side + 2 * half, side + 2 * half
    )
    rows = F.conv2d(stacked, weight.view(-1, 1, 1, size), groups=num * channels)
    both = F.conv2d(rows, weight.view(-1, 1, size, 1), groups=num * channels)
    return both.view(num, channels, side, side)
