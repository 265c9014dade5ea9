"""An ultrasound study of the phantom, and findings on it, for tests of what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from dicom_node.algorithm import Code, Findings, Frame, Measurement, Segment
from dicom_node.check.axes import diameters
from dicom_node.run.frames import FrameSource, read_frames
from dicom_node.run.worker_process import placed
from dicom_node.testing.phantom_ultrasound import Drawn, Lesion, Probe, dataset, draw
from dicom_node.testing.series import phantom_uid, save

ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
MASS = Code("4147007", "SCT", "Mass")
BREAST = Code("76752008", "SCT", "Breast")
PROBABILITY = Code("111047", "DCM", "Probability of cancer")
LONG_AXIS, SHORT_AXIS = Code("103339001", "SCT", "Long Axis"), Code("103340004", "SCT", "Short Axis")

SHOWN = draw(Probe())
"""The picture that every image of the study shows."""
OTHER = draw(Probe(seed=1), Lesion(depth=24, across=-4, radii=(4, 6)))


def named() -> Drawn:
    """The same, with something written close beside the tissue, as a patient's name may be."""
    screen = SHOWN.screen.copy()
    _, left, _, right = SHOWN.box
    screen[200:260, left - 8 : left - 2] = screen[200:260, right + 2 : right + 8] = 255
    return replace(SHOWN, screen=screen)


def image(key: str, drawn: Sequence[Drawn] = (SHOWN,), *, scale: bool = True, **header: Any) -> Dataset:
    """One image, or a clip of several frames, of the study."""
    regions = [(drawn[0].box, drawn[0].spacing)] if scale else []
    common: Mapping[str, Any] = {
        "StudyInstanceUID": phantom_uid("an examination"),
        "StudyDescription": "Mammasonographie",
        "SeriesInstanceUID": phantom_uid("an examination", "series"),
    }
    return dataset([d.screen for d in drawn], regions=regions, key=key, header={**common, **header})


def study(folder: Path, images: Sequence[Dataset]) -> FrameSource:
    """The images as the node reads them."""
    return read_frames(save(folder, list(images)))


def findings(source: FrameSource, drawn: Sequence[Drawn], numbers: Sequence[int], side: str | None = None) -> Findings:
    """The true outline of each clip's lesion, on its frame of that number, with its axes and a probability."""
    label_map = np.zeros((len(source.clips), *source.clips[0].shape), np.uint8)
    segments, measurements = [], []
    for plane, (clip, shown) in enumerate(zip(source.clips, drawn, strict=True)):
        value = plane + 1
        label_map[plane][shown.lesion] = value
        spacing = clip.regions[0].spacing
        long, across = diameters(shown.lesion, spacing or (1.0, 1.0))
        unit = "mm" if spacing else "{pixels}"
        segments.append(Segment(value, f"Lesion {value}", ABNORMAL, MASS, side))
        measurements.append(
            Measurement(f"Lesion {value}: probability", 71.5, "%", PROBABILITY, BREAST, side, segments=(value,))
        )
        for name, code, length in (("longest", LONG_AXIS, long), ("shortest", SHORT_AXIS, across[0])):
            measurements.append(
                Measurement(f"Lesion {value}: {name} axis", length, unit, code, BREAST, side, (value,), from_mask=True)
            )
    frames = tuple(Frame(c.SOPInstanceUID, n) for c, n in zip(source.clips, numbers, strict=True))
    found = Findings(label_map, tuple(segments), tuple(measurements), ("A note.",), frames=frames, key_planes=(0,))
    return placed(found, source.clips)
