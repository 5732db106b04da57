"""The batched augmentation equals torchvision's functions image by image."""

import itertools

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from online_swav.learning.augment import AugmentParameters, PhotometricAugment, blur_kernel_size

MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
ADJUST = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def augment(**over):
    settings = {
        "jitter": (0.8, 0.8, 0.8, 0.2), "jitter_p": 0.8, "grayscale_p": 0.2, "blur_p": 0.5,
        "blur_sigma": (0.1, 2.0), "mean": MEAN, "std": STD,
    }  # fmt: skip
    return PhotometricAugment(**{**settings, **over})


def crops(num, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(num, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(smooth, size=(side, side), mode="bilinear")
    noise = 0.1 * torch.rand(num, 3, side, side, generator=generator)
    images = ((smooth + noise).clamp(0, 1) * 255).to(torch.uint8)
    images[0] = images[0, :1]  # a gray picture: its hue is undefined
    images[1, :, :3] = 0
    images[1, :, 3:6] = 255
    return images


def reference(images, parameters, largest_sigma=2.0):
    results = []
    for n, image in enumerate(images.float() / 255):
        if parameters.jitter[n]:
            for operation in parameters.order[n].tolist():
                image = ADJUST[operation](image, float(parameters.factors[n, operation]))
        if parameters.grayscale[n]:
            image = tv.rgb_to_grayscale(image, num_output_channels=3)
        if parameters.blur[n]:
            size = blur_kernel_size(largest_sigma, image.shape[-1])
            image = tv.gaussian_blur(image, [size, size], [float(parameters.sigma[n])] * 2)
        results.append(tv.normalize(image, MEAN, STD))
    return torch.stack(results)


def assert_equal_to_torchvision(images, parameters, atol):
    # Normalised values span about 4.4 times [0, 1]: an error of 1e-5 there is 5e-5 here.
    actual = augment().apply(images, parameters)
    torch.testing.assert_close(actual, reference(images, parameters), atol=atol, rtol=0)


def test_every_order_of_the_jitter_equals_torchvision():
    orders = torch.tensor(list(itertools.permutations(range(4))))
    drawn = augment().draw(24, generator=torch.Generator().manual_seed(1))
    parameters = AugmentParameters(
        jitter=torch.ones(24, dtype=torch.bool), order=orders, factors=drawn.factors,
        grayscale=torch.zeros(24, dtype=torch.bool), blur=torch.zeros(24, dtype=torch.bool),
        sigma=drawn.sigma,
    )  # fmt: skip
    assert_equal_to_torchvision(crops(24, 16), parameters, atol=4.4e-5)


@pytest.mark.parametrize("side", [8, 17, 32])
def test_random_draws_equal_torchvision(side):
    drawn = augment().draw(40, generator=torch.Generator().manual_seed(side))
    assert_equal_to_torchvision(crops(40, side), drawn, atol=4.4e-5)


def test_a_gray_crop_has_three_equal_channels_before_normalisation():
    settings = augment(grayscale_p=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    drawn = settings.draw(4, generator=torch.Generator().manual_seed(0))
    images = settings.apply(crops(4, 8), drawn)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 1], images[:, 2])


def test_nothing_but_normalisation_is_left_when_all_probabilities_are_zero():
    settings = augment(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    images = crops(4, 8)
    drawn = settings.draw(4, generator=torch.Generator())
    expected = tv.normalize(images.float() / 255, MEAN, STD)
    torch.testing.assert_close(settings.apply(images, drawn), expected, atol=1e-6, rtol=0)


def test_the_crops_handed_in_are_not_changed():
    images = crops(16, 8)
    before = images.clone()
    settings = augment()
    settings.apply(images, settings.draw(16, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(images, before)


def test_draws_follow_the_probabilities_and_ranges():
    drawn = augment().draw(4000, generator=torch.Generator().manual_seed(0))
    assert float(drawn.jitter.float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float(drawn.grayscale.float().mean()) == pytest.approx(0.2, abs=0.03)
    assert float(drawn.blur.float().mean()) == pytest.approx(0.5, abs=0.03)
    low, high = drawn.factors.amin(dim=0), drawn.factors.amax(dim=0)
    torch.testing.assert_close(low, torch.tensor([0.2, 0.2, 0.2, -0.2]), atol=0.01, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.8, 1.8, 1.8, 0.2]), atol=0.01, rtol=0)
    assert 0.1 <= float(drawn.sigma.min()) < float(drawn.sigma.max()) <= 2.0
    assert len(drawn.order.unique(dim=0)) == 24


def test_the_blur_kernel_is_odd_covers_three_sigma_and_fits_the_crop():
    assert blur_kernel_size(2.0, 224) == 13
    assert blur_kernel_size(2.0, 4) == 7
    assert blur_kernel_size(0.1, 32) == 1
