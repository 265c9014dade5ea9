"""The results that the viewer is tried on. Another algorithm's are added by naming its folder and its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dicom_node.testing.phantom_cine import write_cine
from dicom_node.testing.phantom_head import write_head
from dicom_node.testing.phantom_ultrasound import Probe, dataset, draw
from dicom_node.testing.series import save
from tests.ultrasound_algorithms import NODULE, install


@dataclass(frozen=True)
class Case:
    """One algorithm's results.

    Attributes:
        algorithm: its folder in ``algorithms/``.
        source: writes the images it is run on into a folder, and returns their files.
        segmentation: whether OHIF can show its SEG; where it cannot, contours and picture are what a reader has.
        label_map: whether its segmentation is also looked at as a label map, as a destination may ask for.
        moments: whether its segments lie on images of several moments at one place.
        install: puts the algorithm into a folder, where the node's own is not to be used.
    """

    algorithm: str
    source: Callable[[Path], list[Path]]
    segmentation: bool = True
    label_map: bool = False
    moments: bool = False
    install: Callable[[Path], None] | None = None


def _write_breast(folder: Path) -> list[Path]:
    shown = draw(Probe(), NODULE)
    about = {"StudyDescription": "US breast", "SeriesDescription": "Left breast"}
    return save(folder, [dataset([shown.screen], regions=[(shown.box, shown.spacing)], header=about)])


CASES = (
    Case("hippocampus", write_head, label_map=True),
    Case("left_ventricle", write_cine, moments=True),
    # OHIF asks a SEG for the orientation of its planes, which ultrasound has not.
    Case("breast_us", _write_breast, segmentation=False, install=partial(install, organs=("breast_us",))),
)
