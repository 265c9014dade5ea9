"""Images made from label maps: a head whose tissues have the intensities we choose.

The maps are SynthSeg's (FreeSurfer numbers, skull and face included). What is made is never meant to look like a scan
in detail: it shows the networks real surroundings, full tissue labels and contrasts that the training scans lack.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Labels = npt.NDArray[np.int16]

LEFT, RIGHT = 17, 53
WHITE = (2, 7, 41, 46, 16, 28, 60, 85)
GREY = (3, 8, 42, 47, 10, 11, 12, 13, 18, 26, 49, 50, 51, 52, 54, 58, 136, 137, 163, 164, 25, 57)
FLUID = (4, 5, 14, 15, 24, 30, 43, 44, 62, 72)
LARGEST = 600

# T1-weighted intensity of each tissue, CSF to white matter being 0.2 to 1; (mean, spread over heads).
T1 = {
    **dict.fromkeys(FLUID, (0.22, 0.05)),
    **dict.fromkeys(GREY, (0.62, 0.04)),
    **dict.fromkeys((2, 41, 7, 46), (0.97, 0.03)),
    **dict.fromkeys((16, 28, 60, 85), (0.88, 0.05)),
    **dict.fromkeys((10, 49), (0.76, 0.05)),
    **dict.fromkeys((12, 51), (0.74, 0.05)),
    **dict.fromkeys((13, 52), (0.86, 0.05)),
    **dict.fromkeys((17, 53, 18, 54), (0.63, 0.03)),
}


def head_channels(labels: Labels) -> npt.NDArray[np.bool_]:
    """Masks of the hippocampi, of what is inside the skull, of what is outside: shape (3, x, y, z)."""
    table = np.zeros(LARGEST, bool)
    table[[LEFT, RIGHT, *GREY, *WHITE, *FLUID]] = True
    inside = table[labels]
    return np.stack([(labels == LEFT) | (labels == RIGHT), inside, ~inside])


def random_intensities(contrast: str, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each label number, shape (LARGEST,) both.

    Args:
        contrast: ``t1``: grey, white and CSF as T1-weighting shows them; ``t2``: the reverse order;
            ``any``: each tissue at random, right and left alike.
    """
    means = torch.rand(LARGEST, generator=generator)
    spread = torch.rand(LARGEST, generator=generator) * 0.05 + 0.01
    means[0] = torch.rand(1, generator=generator) * 0.05
    pairs = {2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 28: 60}
    for left, right in pairs.items():
        means[right], spread[right] = means[left], spread[left]
    if contrast == "any":
        # one grey and one white matter: an image whose tissues all differ has no grey/white order to learn
        for group in (GREY, FLUID, WHITE):
            centre = torch.rand(1, generator=generator)
            means[list(group)] = centre + 0.06 * torch.randn(len(group), generator=generator)
        means[[LEFT, RIGHT]] = means[3] + 0.05 * torch.randn(1, generator=generator)
    else:
        for label, (mean, sd) in T1.items():
            means[label] = mean
            if label not in pairs.values():
                means[label] += sd * torch.randn(1, generator=generator)[0]
        for left, right in pairs.items():
            means[right] = means[left]
        if contrast == "t2":
            brain = torch.tensor(sorted(T1))
            means[brain] = 1.15 - means[brain]
    return means.clamp(0, 1.2), spread


def paint(labels: torch.Tensor, contrast: str, generator: torch.Generator) -> torch.Tensor:
    """An image of ``labels`` (int64, any shape), float32, about 0..1.2, with the texture of each label."""
    means, spread = random_intensities(contrast, generator)
    image: torch.Tensor = means[labels] + spread[labels] * torch.randn(labels.shape, generator=generator)
    return image.clamp(min=0)


def lump(shape: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Something that is no head: balls, shells and noise, float32 about 0..1. The find stage must see nothing in it."""
    axes = [torch.linspace(-1, 1, s) for s in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    image = torch.zeros(shape)
    for _ in range(int(torch.randint(0, 7, (1,), generator=generator))):
        centre = (torch.rand(3, generator=generator) - 0.5).view(3, 1, 1, 1)
        radius = (torch.rand(3, generator=generator) * 0.7 + 0.1).view(3, 1, 1, 1)
        distance = (((grid - centre) / radius) ** 2).sum(0).sqrt()
        inner = float(torch.rand(1, generator=generator)) * 1.2 - 0.4
        image = torch.where((distance < 1) & (distance > inner), torch.rand(1, generator=generator), image)
    cells = [max(2, s // int(torch.randint(2, 12, (1,), generator=generator))) for s in shape]
    texture = torch.rand(1, 1, *cells, generator=generator)
    texture = torch.nn.functional.interpolate(texture, size=shape, mode="trilinear", align_corners=True)[0, 0]
    image = image * (0.5 + texture) if float(torch.rand(1, generator=generator)) < 0.7 else image + 0.4 * texture
    return image
