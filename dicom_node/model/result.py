"""What a run leaves: result objects on disk, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SegEncoding = Literal["binary", "labelmap", "labelmap_rle", "labelmap_jls"]
"""How a Segmentation is written: BINARY native, or LABELMAP (PS3.3 A.51) native, RLE Lossless or JPEG-LS Lossless."""

DEFAULT_ENCODING: SegEncoding = "binary"


def encoded_role(role: str, encoding: SegEncoding) -> str:
    """The role of a SEG in that encoding, or of the SR that refers to it: ``seg``, ``seg_labelmap_rle``."""
    return role if encoding == DEFAULT_ENCODING else f"{role}_{encoding}"


@dataclass(frozen=True)
class ResultObject:
    """One encoded DICOM object.

    Attributes:
        role: ``"seg"``, ``"sr"``, ``"contours"``, ``"sc"`` or ``"pdf"``, and :func:`encoded_role` of the first two;
            also the name of its file.
        path: the Part 10 file.
    """

    role: str
    SOPInstanceUID: str
    SOPClassUID: str
    SeriesInstanceUID: str
    path: Path


@dataclass(frozen=True)
class AlgorithmIdentity:
    """What made a result: goes into every object and into the derived UIDs.

    Attributes:
        id: the folder's name, for example ``hippocampus``.
        name: for people.
        version: the manifest's version.
        weights_digest: SHA-256 over the weights' SHA-256s in name order; empty without weights.
        device_uid: the algorithm's Device UID (derived from id, version and weights).
    """

    id: str
    name: str
    version: str
    weights_digest: str
    device_uid: str


def readable(value: float) -> str:
    """A measured value for people: two decimals, or three digits of a small one."""
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
