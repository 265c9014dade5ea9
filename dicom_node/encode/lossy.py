"""Lossy compression of the images, which stays true of what is made from them (PS3.3 section C.7.6.1.1.5)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from highdicom.frame import get_lossy_compression_attributes
from pydicom import Dataset
from pydicom.uid import JPEGBaseline8Bit

from dicom_node.encode.header_values import numbers_of, text_of

_TERM = re.compile(r"[A-Z0-9 _]{1,16}")


def lossy_compression(headers: Sequence[Dataset]) -> Dataset | None:
    """Lossy Image Compression, ratio and method of the first image that was ever compressed so; None: none was.

    An image was if it says so, or if it comes as baseline JPEG, which always loses something. Where the header does not
    tell the ratio, it is that of the pixels' size to the file's.

    Args:
        headers: as read from files: ``file_meta`` and ``filename`` are looked at where they are there.
    """
    for header in headers:
        meta = getattr(header, "file_meta", None)
        syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
        if text_of(header, "LossyImageCompression") != "01" and syntax != JPEGBaseline8Bit:
            continue
        found = Dataset()
        found.LossyImageCompression = "01"
        found.LossyImageCompressionRatio = _told_ratio(header) or [_measured_ratio(header)]
        told = text_of(header, "LossyImageCompressionMethod").split("\\")
        known = get_lossy_compression_attributes(syntax)[1]
        method = told if all(map(_TERM.fullmatch, told)) else [known] if known else []
        if method:
            found.LossyImageCompressionMethod = method
        return found
    return None


def _told_ratio(header: Dataset) -> list[str]:
    steps = text_of(header, "LossyImageCompressionRatio").split("\\")
    numbers = numbers_of(header, "LossyImageCompressionRatio", len(steps)) or []
    return [f"{n:.6g}" for n in numbers] if all(n > 0 for n in numbers) else []


def _measured_ratio(header: Dataset) -> str:
    path = getattr(header, "filename", None)
    sizes = [numbers_of(header, k, 1) for k in ("Rows", "Columns", "BitsAllocated")]
    if path is None or not Path(path).is_file() or not all(sizes):
        return "1"
    counts = [numbers_of(header, k, 1) or [1.0] for k in ("NumberOfFrames", "SamplesPerPixel")]
    bits = math.prod(number for one in (*sizes, *counts) if one for number in one)
    return f"{max(bits / 8 / Path(path).stat().st_size, 1):.3g}"
