"""Photometric augmentation of a whole batch of crops at once, on their device.

Order and probabilities of the official code: colour jitter (its four operations in random order),
grayscale, Gaussian blur, normalisation. Every crop draws its own parameters. The operations are
those of torchvision.transforms.v2.functional on float images in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

_OPERATIONS = ("brightness", "contrast", "saturation", "hue")
_GRAY = (0.2989, 0.587, 0.114)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentParameters:
    """What was drawn for N crops."""

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

    def to(self, device: torch.device) -> AugmentParameters:
        """The same parameters on another device."""
        moved = {name: getattr(self, name).to(device) for name in self.__slots__}
        return AugmentParameters(**moved)


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
    ) -> None:
        self._jitter = jitter
        self._jitter_p = jitter_p
        self._grayscale_p = grayscale_p
        self._blur_p = blur_p
        self._blur_sigma = blur_sigma
        self._mean = mean
        self._std = std

    def draw(self, num: int, *, generator: torch.Generator) -> AugmentParameters:
        """Parameters of `num` crops, on the generator's device."""
        device = generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        strength = torch.tensor(self._jitter, device=device)
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
        """The augmented, normalised crops in float32."""
        images = crops.float().div_(255)
        images = _color_jitter(images, parameters)
        gray = parameters.grayscale.nonzero().squeeze(1)
        if len(gray):
            images[gray] = _to_gray(images[gray]).expand(-1, 3, -1, -1)
        blurred = parameters.blur.nonzero().squeeze(1)
        if len(blurred):
            images[blurred] = gaussian_blur(
                images[blurred], parameters.sigma[blurred], largest_sigma=self._blur_sigma[1]
            )
        mean = images.new_tensor(self._mean).view(3, 1, 1)
        std = images.new_tensor(self._std).view(3, 1, 1)
        return images.sub_(mean).div_(std)


def _color_jitter(images: Tensor, parameters: AugmentParameters) -> Tensor:
    """Each slot of the order runs each operation once, on the crops that have it there."""
    for slot in range(4):
        for number, operation in enumerate(_OPERATIONS):
            chosen = parameters.jitter & (parameters.order[:, slot] == number)
            index = chosen.nonzero().squeeze(1)
            if len(index):
                factor = parameters.factors[index, number].view(-1, 1, 1, 1)
                images[index] = _ADJUST[operation](images[index], factor)
    return images


def _to_gray(images: Tensor) -> Tensor:
    weights = images.new_tensor(_GRAY).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = _to_gray(images).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, factor).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_to_gray(images), images, factor).clamp_(0, 1)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue by `shift` turns, through HSV."""
    value, _ = images.max(dim=1)
    lowest, _ = images.min(dim=1)
    chroma = value - lowest
    gray = chroma == 0
    safe = torch.where(gray, torch.ones_like(chroma), chroma)
    red, green, blue = images.unbind(dim=1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = torch.where(gray, torch.zeros_like(hue), hue)
    sextant = (hue + 6 * shift.view(-1, 1, 1)).remainder(6)
    # f(n) = v - c * max(0, min(k, 4 - k, 1)) with k = (n + h) mod 6: the closed form of HSV -> RGB.
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (sextant + offset).remainder(6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)


_ADJUST = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
}


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
