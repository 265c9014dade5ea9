"""Lossy compression of the images, which stays true of what is made from them (PS3.3 section C.7.6.1.1.5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from highdicom.frame import get_lossy_compression_attributes
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import JPEGBaseline8Bit


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
        if str(header.get("LossyImageCompression", "")) != "01" and syntax != JPEGBaseline8Bit:
            continue
        found = Dataset()
        found.LossyImageCompression = "01"
        found.LossyImageCompressionRatio = _ratios(header) or _measured_ratio(header)
        method = header.get("LossyImageCompressionMethod") or get_lossy_compression_attributes(syntax)[1]
        if method:
            found.LossyImageCompressionMethod = method
        return found
    return None


def _ratios(header: Dataset) -> list[str]:
    value = header.get("LossyImageCompressionRatio")
    ratios = list(value) if isinstance(value, MultiValue) else [value]
    try:
        return [f"{float(r):.6g}" for r in ratios if float(r) > 0]
    except (TypeError, ValueError):
        return []


def _measured_ratio(header: Dataset) -> list[str]:
    path = getattr(header, "filename", None)
    if path is None or not Path(path).is_file():
        return ["1"]
    count = (
        int(header.get("NumberOfFrames") or 1) * header.Rows * header.Columns * int(header.get("SamplesPerPixel", 1))
    )
    size = count * int(header.get("BitsAllocated", 8)) / 8
    return [f"{max(size / Path(path).stat().st_size, 1):.3g}"]
