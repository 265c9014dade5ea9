"""Adaptive contrast enhancement: the fast form is the slow one's, and does what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from algorithms.ultrasound.ace import AdaptiveContrastEnhancement


def slowly(image: np.ndarray, slope: float) -> np.ndarray:
    """The definition, pixel by pixel."""
    rows, columns = image.shape
    index = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    distance = np.hypot(*(index[:, None] - index[None]).transpose(2, 0, 1))
    weight = np.divide(1, distance, out=np.zeros_like(distance), where=distance > 0)
    values = image.ravel()
    response = np.clip(slope * (values[:, None] - values[None]), -1, 1)
    result = (weight * response).sum(1) / weight.sum(1)
    return ((result - result.min()) / np.ptp(result)).reshape(image.shape)


def noise(rows: int = 14, columns: int = 19, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("slope", [1.0, 3.0, 5.0])
def test_it_is_what_the_definition_says(slope: float) -> None:
    """The sum over all pixels divided by the sum of all weights that fit: edges are treated as the definition does."""
    image = noise()

    fast = AdaptiveContrastEnhancement(slope, levels=65)(image)

    assert np.abs(fast.numpy() - slowly(image.numpy(), slope)).max() < 0.01


def test_few_levels_are_near_enough() -> None:
    image = noise(40, 40)

    few, many = AdaptiveContrastEnhancement()(image), AdaptiveContrastEnhancement(levels=200)(image)

    assert (few - many).abs().max() < 0.05


def test_a_dark_half_gains_contrast() -> None:
    image = noise(32, 64) * 0.5
    image[:, :32] *= 0.1  # shadow: a tenth of the contrast

    enhanced = AdaptiveContrastEnhancement()(image)

    def ratio(x: torch.Tensor) -> float:
        return float(x[:, 4:24].std() / x[:, 40:60].std())

    assert ratio(enhanced) > 1.4 * ratio(image)


def test_gain_and_offset_within_range_change_little() -> None:
    image = noise(32, 32) * 0.5

    first, second = AdaptiveContrastEnhancement(20.0)(image), AdaptiveContrastEnhancement(20.0)(image * 0.8 + 0.1)

    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.98


def test_images_of_a_batch_do_not_touch_one_another() -> None:
    images = torch.stack([noise(seed=0), noise(seed=1) * 0.3])[:, None]

    together = AdaptiveContrastEnhancement()(images)

    assert together.shape == images.shape
    for one, alone in zip(together, images, strict=True):
        assert torch.allclose(one, AdaptiveContrastEnhancement()(alone), atol=1e-6)


def test_a_flat_image_stays_flat() -> None:
    assert torch.equal(AdaptiveContrastEnhancement()(torch.full((1, 16, 16), 0.3)), torch.full((1, 16, 16), 0.5))


@pytest.mark.parametrize(("slope", "levels"), [(0.5, 12), (5.0, 1)])
def test_settings_that_make_no_sense_are_refused(slope: float, levels: int) -> None:
    with pytest.raises(ValueError, match="ACE takes"):
        AdaptiveContrastEnhancement(slope, levels)
