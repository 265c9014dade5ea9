"""The training data: which files, which folds, and the arrays made from them.

Everything is brought to RAS axes (x to the right, y to the front, z to the head) and stays there.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from . import anatomy, synth

T = TypeVar("T", "Heads", "Patches")

FIND_FOLDS = 2
SEGMENT_FOLDS = 5
FIND_SHAPE = (96, 120, 120)  # voxels of 2 mm: a whole adult head
SEGMENT_SHAPE = (48, 64, 48)  # voxels of 1 mm: a hippocampus and what surrounds it
CONTRASTS = ("t1", "t1", "t1", "t2")

Array = npt.NDArray[Any]


def data_folder(given: str | None = None) -> Path:
    """``--data``, else the environment's DICOM_NODE_DATA, else ``../shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(given or os.environ.get("DICOM_NODE_DATA") or beside)


def fold_of(name: str, folds: int) -> int:
    """The fold of a patient: from a hash of the name, so it never depends on what else lies in the folder."""
    return zlib.crc32(name.encode()) % folds


@dataclass(frozen=True)
class Case:
    """One labelled scan."""

    name: str
    image: Path
    labels: Path


def msd_cases(data: Path) -> list[Case]:
    """The 260 crops; each is a patient."""
    folder = data / "hippocampus_msd_task04"
    images = sorted((folder / "images").glob("*.nii.gz"))
    return [Case(i.name.removesuffix(".nii.gz"), i, folder / "labels" / i.name) for i in images]


def ixi_cases(data: Path) -> list[Case]:
    """The 112 heads; each is a patient."""
    images = sorted((data / "brain_t1_ixi").glob("*_t1.nii.gz"))
    return [Case(re.sub("_t1.*", "", i.name), i, i.with_name(i.name.replace("_t1.", "_hippocampus."))) for i in images]


def held_in(cases: list[Case], fold: int, folds: int) -> list[int]:
    """Indices of the cases that ``fold`` trains on."""
    return [k for k, case in enumerate(cases) if fold_of(case.name, folds) != fold]


def read_ras(path: Path) -> tuple[Array, npt.NDArray[np.float64]]:
    """A NIfTI file's array with axes in RAS order, and its affine to RAS mm."""
    image: Any = nibabel.as_closest_canonical(nibabel.load(path))
    return np.asarray(image.dataobj), image.affine


def into(array: Array, shape: tuple[int, int, int], middle: Array, value: float = 0) -> Array:
    """Cut or pad the last three axes to ``shape`` with voxel ``middle`` at its centre."""
    start = np.round(np.asarray(middle)).astype(int) - np.asarray(shape) // 2
    spatial = array.shape[-3:]
    cut = tuple(slice(max(0, b), max(0, min(n, b + s))) for b, s, n in zip(start, shape, spatial, strict=True))
    put = tuple(slice(c.start - b, c.stop - b) for c, b in zip(cut, start, strict=True))
    result = np.full((*array.shape[:-3], *shape), value, array.dtype)
    result[..., put[0], put[1], put[2]] = array[..., cut[0], cut[1], cut[2]]
    return result


def to_unit(image: Array) -> npt.NDArray[np.float32]:
    """Scale so that the 99.5th percentile of what is not empty becomes 1."""
    image = image.astype(np.float32) - float(image.min())
    top = float(np.percentile(image[image > 0.02 * image.max()], 99.5))
    scaled: npt.NDArray[np.float32] = np.clip(image / top, 0, 1.5)
    return scaled


def to_bytes(soft: Array) -> npt.NDArray[np.uint8]:
    """Values 0..1 as 0..255."""
    return np.round(np.clip(soft, 0, 1) * 255).astype(np.uint8)


def blurred(array: Array) -> Array:
    """Smooth the last three axes as the find stage does before it takes every second voxel of 2 mm."""
    sigma = (0.0,) * (array.ndim - 3) + (1.0,) * 3
    result: Array = ndimage.gaussian_filter(array.astype(np.float32), sigma)
    return result


@dataclass(frozen=True)
class Heads:
    """Whole heads at 2 mm, shape FIND_SHAPE, smoothed.

    Attributes:
        images: (n, 1, x, y, z) float16, about 0..1.
        soft: (n, 3, x, y, z) uint8, times 255: share of hippocampus, of inside the skull (hippocampus included),
            of outside. Where the last two are both 0, nobody knows.
    """

    images: torch.Tensor
    soft: torch.Tensor

    def only(self, indices: list[int]) -> Heads:
        """Some of them."""
        return Heads(self.images[indices], self.soft[indices])


def sure_skull(image: Array, middle: Array) -> Array:
    """What is surely inside and surely outside the skull of an upright head, from where its hippocampi are.

    Args:
        image: (x, y, z) at 2 mm, about 0..1.
        middle: the point between both hippocampi, in voxels.

    Returns:
        Bool (2, x, y, z): inside, an ellipsoid smaller than any adult brain; outside, air, neck and face.
    """
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    offset = anatomy.offsets(image.shape, affine, 2.0 * middle)
    inside = anatomy.surely_inside(offset)
    outside = anatomy.surely_outside(offset) | (image < 0.03)
    return np.stack([inside, outside & ~inside])


def ixi_heads(cases: list[Case]) -> Heads:
    """Real heads, hippocampi labelled."""
    images = np.zeros((len(cases), 1, *FIND_SHAPE), np.float16)
    soft = np.zeros((len(cases), 3, *FIND_SHAPE), np.uint8)
    for k, case in enumerate(cases):
        image, _ = read_ras(case.image)
        labels, _ = read_ras(case.labels)
        middle = np.array(image.shape) / 2
        images[k, 0] = into(blurred(to_unit(image)), FIND_SHAPE, middle)
        soft[k, 0] = to_bytes(blurred(into((labels > 0).astype(np.float32), FIND_SHAPE, middle)))
        soft[k, 1:] = 255 * sure_skull(images[k, 0], np.array(ndimage.center_of_mass(soft[k, 0])))
    return Heads(torch.from_numpy(images), torch.from_numpy(soft))


def halve(array: torch.Tensor) -> torch.Tensor:
    """1 mm to 2 mm: the mean of 2x2x2 voxels of (c, x, y, z)."""
    return torch.nn.functional.avg_pool3d(array[None], 2)[0]


def synth_heads(data: Path) -> Heads:
    """Heads painted from the label maps in several contrasts, everything labelled."""
    files = sorted((data / "head_labels_synthseg").glob("*.nii.gz"))
    generator = torch.Generator().manual_seed(1)
    images, soft = [], []
    for file in files:
        labels = read_ras(file)[0].astype(np.int16)
        low, high = np.array(np.nonzero(labels)).min(1), np.array(np.nonzero(labels)).max(1)
        middle = (low + high) / 2
        middle[2] = high[2] + 8 - FIND_SHAPE[2]  # the top of the head, whatever there is of the neck
        whole = into(labels, (2 * FIND_SHAPE[0], 2 * FIND_SHAPE[1], 2 * FIND_SHAPE[2]), middle)
        channels = [halve(torch.from_numpy(c[None]).float())[0].numpy() for c in synth.head_channels(whole)]
        share = torch.from_numpy(to_bytes(blurred(np.stack(channels))))
        numbers = torch.from_numpy(whole).long()
        for contrast in CONTRASTS:
            image = halve(synth.paint(numbers, contrast, generator)[None])[0].numpy()
            images.append(torch.from_numpy(blurred(to_unit(image))[None].astype(np.float16)))
            soft.append(share)
    return Heads(torch.stack(images), torch.stack(soft))


@dataclass(frozen=True)
class Patches:
    """Single hippocampi at 1 mm, shape SEGMENT_SHAPE, right ones mirrored.

    Attributes:
        channels: (n, 4, x, y, z) float16: the image, about 0..1 (where ``painted``: label numbers yet to be painted);
            1 in the hippocampus; 1 in its anterior part (where not ``expert``: in sure background); 1 where the
            image is valid.
        middles: (n, 3), centroid of the hippocampus in voxels.
        expert: whether every voxel is labelled and both parts are told apart. If not, what is neither hippocampus
            nor sure background is to be left out of the loss.
        painted: see ``channels``.
    """

    channels: torch.Tensor
    middles: torch.Tensor
    expert: bool = False
    painted: bool = False

    def only(self, indices: list[int]) -> Patches:
        """Some of them."""
        return Patches(self.channels[indices], self.middles[indices], self.expert, self.painted)


def _stack(channels: list[Array], expert: bool = False, painted: bool = False) -> Patches:
    middles = [ndimage.center_of_mass(c[1]) for c in channels]
    stacked = torch.from_numpy(np.stack(channels).astype(np.float16))
    return Patches(stacked, torch.tensor(middles, dtype=torch.float32), expert, painted)


def msd_patches(cases: list[Case]) -> Patches:
    """The expert labels, in crops that end a few mm around the hippocampus."""
    channels = []
    for case in cases:
        image, _ = read_ras(case.image)
        labels, _ = read_ras(case.labels)
        stack = np.stack([to_unit(image), labels > 0, labels == 1, np.ones(image.shape)])
        channels.append(into(stack, SEGMENT_SHAPE, np.array(image.shape) / 2))
    return _stack(channels, expert=True)


def sure_regions(mask: Array) -> tuple[Array, Array]:
    """What a label of another protocol tells for sure, on a 1 mm grid: its core, and what is 3 mm away from it."""
    return ndimage.binary_erosion(mask, iterations=2), ndimage.distance_transform_edt(~mask) > 3


def ixi_patches(cases: list[Case]) -> Patches:
    """Real surroundings: both hippocampi of each head, from 2 to 1 mm."""
    channels = []
    for case in cases:
        image, _ = read_ras(case.image)
        labels, _ = read_ras(case.labels)
        for side in (1, 2):
            centre = np.array(ndimage.center_of_mass(labels == side))
            cut = np.stack([image, labels == side, np.ones(image.shape)]).astype(np.float32)
            cut = into(cut, (SEGMENT_SHAPE[0] // 2 + 8, SEGMENT_SHAPE[1] // 2 + 8, SEGMENT_SHAPE[2] // 2 + 8), centre)
            start = np.round(centre) - np.array(cut.shape[1:]) // 2
            axes = [np.arange(s) / 2 - s / 4 + c - b for s, c, b in zip(SEGMENT_SHAPE, centre, start, strict=True)]
            points = np.meshgrid(*axes, indexing="ij")
            fine = [ndimage.map_coordinates(c, points, order=o) for c, o in zip(cut, (3, 1, 1), strict=True)]
            core, away = sure_regions(fine[1] > 0.5)
            stack = np.stack([to_unit(np.maximum(fine[0], 0)), core, away, fine[2] > 0.99])
            channels.append(stack[:, :: -1 if side == 2 else 1])
    return _stack(channels)


def synth_patches(data: Path) -> Patches:
    """Sharp surroundings at 1 mm: label numbers around both hippocampi of each map, to be painted anew each time."""
    channels = []
    for file in sorted((data / "head_labels_synthseg").glob("*.nii.gz")):
        labels = read_ras(file)[0].astype(np.int16)
        for side in (synth.LEFT, synth.RIGHT):
            centre = np.array(ndimage.center_of_mass(labels == side))
            patch = into(labels, SEGMENT_SHAPE, centre)[:: -1 if side == synth.RIGHT else 1]
            channels.append(np.stack([patch, *sure_regions(patch == side), np.ones(patch.shape)]))
    return _stack(channels, painted=True)


def kept(file: Path, make: Callable[[], T]) -> T:
    """What ``make`` gives, from ``file`` if an earlier job left it there."""
    if file.exists():
        saved = torch.load(file, weights_only=True, mmap=True)
        return Heads(**saved) if "soft" in saved else Patches(**saved)  # type: ignore[return-value]
    made = make()
    partial = file.with_suffix(f".{os.getpid()}")
    torch.save(asdict(made), partial)
    partial.replace(file)
    return made
