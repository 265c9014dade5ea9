"""What an algorithm author needs, and all of it: a Volume, a Cine or Clips come in, Findings go out.

An algorithm is a folder ``algorithms/<id>/`` with ``algorithm.yaml`` (the manifest) and ``algorithm.py``,
which has one function::

    def load(bundle: Bundle) -> Callable[[Volume], Findings]

``load`` is called once in a worker process and returns the function that is called for each series, or, where the
manifest says ``input: cine``, with the Cine of each study; with ``input: frames`` it is called with the Clips of each
study: its ultrasound images and clips (and may look at several studies at once: :class:`TogetherFunction`).
Raise :class:`NotAnalysed` with a reason when the input is not fit. No DICOM code is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from dicom_node.errors import NotAnalysed
from dicom_node.model.evidence import Evidence
from dicom_node.model.result import readable

__all__ = [
    "AlgorithmFunction",
    "Box",
    "Bundle",
    "Cine",
    "Clip",
    "Code",
    "Curve",
    "Findings",
    "Frame",
    "Measurement",
    "NotAnalysed",
    "Picture",
    "Region",
    "Segment",
    "TogetherFunction",
    "Volume",
]


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.16): ``Code("5366008", "SCT", "Hippocampus")``."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Bundle:
    """The algorithm's own folder, as the worker gives it to ``load``."""

    folder: Path
    device: str
    """A torch device: ``"cpu"``, ``"cuda:0"``."""
    weights: Mapping[str, Path]
    """Weights by the name the manifest gives them; their SHA-256 has been checked."""


@dataclass(frozen=True)
class Volume:
    """A series as one regular grid of voxels.

    Attributes:
        array: float32, shape (slices, rows, columns), after rescale slope and intercept.
        affine: float64, shape (4, 4): (slice, row, column, 1) index to (x, y, z, 1) in mm, DICOM patient
            coordinates (LPS: +x left, +y posterior, +z head; PS3.3 C.7.6.2.1.1), at voxel centres.
            The directions are orthogonal unless the gantry was tilted.
        tags: header values by DICOM keyword that are of use to an algorithm; nothing that names the patient.
    """

    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    tags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.affine.shape != (4, 4):
            raise ValueError(
                f"a Volume takes a 3-D array and a 4x4 affine, not {self.array.shape}, {self.affine.shape}"
            )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring (slices, rows, columns)."""
        s, r, c = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(s), float(r), float(c)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³ (right also when the grid is sheared)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


@dataclass(frozen=True)
class Frame:
    """The stored image of one slice at one phase: what a result that is of this image alone refers to."""

    SOPInstanceUID: str
    number: int = 1
    """Frame Number, from 1; 1 of a single-frame image."""


@dataclass(frozen=True)
class Cine:
    """A beating heart: one stack of parallel slices, imaged at several phases of the heartbeat.

    Attributes:
        array: float32, shape (phases, slices, rows, columns), after rescale slope and intercept. Phases are in the
            order of the heartbeat, the first soonest after the R wave.
        affine: float64, shape (4, 4), the same at every phase: (slice, row, column, 1) index to (x, y, z, 1) in mm,
            DICOM patient coordinates (LPS), at voxel centres.
        trigger_times: float64, shape (phases, slices): ms from the R wave; they differ from slice to slice, as each
            was imaged in heartbeats of its own. NaN where the images do not tell.
        intervals: float64, shape (slices,): ms from R wave to R wave; NaN where the images do not tell.
        frames: by phase, then by slice: where each plane of ``array`` came from.
        tags: header values by DICOM keyword that are of use to an algorithm; nothing that names the patient.
    """

    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    trigger_times: npt.NDArray[np.float64]
    intervals: npt.NDArray[np.float64]
    frames: tuple[tuple[Frame, ...], ...]
    tags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.affine.shape != (4, 4):
            raise ValueError(f"a Cine takes a 4-D array and a 4x4 affine, not {self.array.shape}, {self.affine.shape}")
        phases, slices = self.array.shape[:2]
        if self.trigger_times.shape != (phases, slices) or self.intervals.shape != (slices,):
            raise ValueError("a Cine takes a trigger time for each phase and slice, and an interval for each slice")
        if [len(row) for row in self.frames] != [slices] * phases:
            raise ValueError("a Cine takes a frame for each phase and slice")

    def phase(self, index: int) -> Volume:
        """The stack at one phase (0-based)."""
        return Volume(self.array[index], self.affine, self.tags)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring (slices, rows, columns)."""
        return self.phase(0).spacing

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³, gaps between slices included."""
        return self.phase(0).voxel_volume

    @property
    def heart_rate(self) -> float | None:
        """Beats a minute, from the median interval of the slices; None where the images do not tell."""
        known = self.intervals[np.isfinite(self.intervals)]
        return 60000 / float(np.median(known)) if known.size else None


Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels, the last two exclusive."""


@dataclass(frozen=True)
class Region:
    """A part of an ultrasound picture that shows tissue.

    Attributes:
        box: (top, left, bottom, right), the last two exclusive.
        spacing: mm between (rows, columns), or None where the image is not calibrated.
    """

    box: Box
    spacing: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Picture:
    """One B-mode picture.

    Attributes:
        frame: where it came from.
        gray: uint8, shape (rows, columns): the whole frame, 0 black; what is written over it is filled from around it.
        written: bool, same shape: pixels that were filled: text, calipers, coloured marks.
        regions: where tissue is; nothing outside of them is to be looked at.
    """

    frame: Frame
    gray: npt.NDArray[np.uint8]
    written: npt.NDArray[np.bool_]
    regions: tuple[Region, ...]


class Clip(Protocol):
    """The ultrasound pictures of one SOP instance; a single image is a clip of one.

    Nothing is decoded until it is asked for.
    """

    @property
    def SOPInstanceUID(self) -> str:
        """Of the instance."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of every frame."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where tissue is, in every frame."""

    @property
    def tags(self) -> Mapping[str, Any]:
        """Header values by DICOM keyword that are of use to an algorithm; nothing that names the patient."""

    @property
    def part(self) -> Evidence:
        """The part of the body that the header names, ``unknown`` where it names none, and where it says so."""

    @property
    def side(self) -> Evidence:
        """``left``, ``right``, ``both`` or ``unknown``, as the header says."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what is wrong with the header."""

    def __len__(self) -> int:
        """How many frames there are."""

    def picture(self, index: int) -> Picture:
        """One picture (``index`` from 0); raises NotAnalysed where it cannot be used."""

    def pictures(self, left_out: list[str] | None = None) -> Iterator[Picture]:
        """Every picture that can be used, in turn; why others cannot is added to ``left_out``.

        Raises NotAnalysed at the end, when more than a fifth of the frames is damaged or none is left.
        """


@dataclass(frozen=True)
class Segment:
    """One value of the label map.

    Attributes:
        value: its value in ``Findings.label_map``, from 1 up without gaps; also the SEG's Segment Number.
        label: Segment Label, for people.
        category: Segmented Property Category (CID 7150), usually Anatomical Structure.
        type: Segmented Property Type.
        laterality: ``"left"``, ``"right"`` or None.
        color: recommended display colour, sRGB 0..255.
    """

    value: int
    label: str
    category: Code
    type: Code
    laterality: str | None = None
    color: tuple[int, int, int] = (255, 0, 0)


@dataclass(frozen=True)
class Measurement:
    """One number of the report.

    Attributes:
        name: for people and programs; unique among an algorithm's findings.
        value: in ``unit``.
        unit: UCUM code: ``mL``, ``mm``, ``%``, ``1``.
        code: what was measured (for example SCT 118565006 Volume).
        site: the finding site.
        laterality: ``"left"``, ``"right"`` or None.
        segments: values of the segments it is of; several add up. Empty: it is of no segment.
        from_mask: True when the value is the volume of ``segments`` in the label map, in mL or mm3, or, by its code
            (SCT 103339001 Long Axis, 103340004 Short Axis), the longest diameter of one segment in its plane or the
            extent across that, from pixel edge to pixel edge, in mm or, of images without a scale, in ``{pixels}``:
            the node then computes it again from the SEG before the result may leave.
        plausible: limits (low, high) outside which the value is flagged in the report, never suppressed.
        method: how it was computed, when the name does not say.
        derivation: mean, maximum and so on (CID 7464), where several values have the same ``code``.
        group: measurements that share one stand together in the report, under this heading.
        compare: how the report gives its change since a prior study, if the manifest asks for one: ``difference``, in
            ``unit`` (of a percentage: in points); ``yearly``: besides, percent a year, where at least half a year lies
            between the studies. None: not at all. The prior's measurement of the same name is the one compared with.
        change_of: set by the node alone: the name of the measurement whose change this is.
    """

    name: str
    value: float
    unit: str
    code: Code
    site: Code
    laterality: str | None = None
    segments: tuple[int, ...] = ()
    from_mask: bool = False
    plausible: tuple[float, float] | None = None
    method: str | None = None
    derivation: Code | None = None
    group: str | None = None
    compare: Literal["difference", "yearly"] | None = None
    change_of: str | None = None

    @property
    def flag(self) -> str | None:
        """Why the value deserves a second look, or None."""
        if self.plausible is None:
            return None
        low, high = self.plausible
        if low <= self.value <= high:
            return None
        side = "below" if self.value < low else "above"
        said = f"{self.name} {readable(self.value)} {self.unit}"
        return f"{said} is {side} the plausible range {low:g} to {high:g} {self.unit}"


@dataclass(frozen=True)
class Curve:
    """A course over time, to be drawn; its values stand in the measurements too.

    Attributes:
        name: what is drawn: ``Left ventricular volume``.
        unit: UCUM code of the values.
        times: ms, rising.
        values: in ``unit``, one for each time.
        marks: (index, short label) of points to be named: ``(0, "ED")``.
    """

    name: str
    unit: str
    times: tuple[float, ...]
    values: tuple[float, ...]
    marks: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        if len(self.times) != len(self.values):
            raise ValueError("a Curve takes one time for each value")


@dataclass(frozen=True)
class Findings:
    """What an algorithm found in one Volume or Cine, or in the Clips of a study.

    Attributes:
        label_map: uint8, 0 is background. Of a Volume: its shape and grid. Of a Cine: shape (planes, rows, columns),
            one plane for each of ``frames``. Where two frames show the same slice at different times, a segment may
            be marked in one of them only: what is measured at two times takes two segments. Of Clips: one plane for
            each of ``frames``, of which all have the same size.
        segments: one entry for each value that may occur in ``label_map``.
        measurements: in the order of the report.
        frames: the stored image of each plane of ``label_map``; empty: the planes of the Volume in their order.
        curves: courses over time.
        key_planes: indices of planes of ``label_map`` that show best what was found.
        shown: of each of ``frames`` the boxes that a picture may show, because a patient's name may be written beside
            them; the node fills it in. Empty: all.
        notes: sentences for the radiologist: what the algorithm could not do, what limits the result.
        details: evidence for the run's record (plain JSON types), not for the report.
    """

    label_map: npt.NDArray[np.uint8]
    segments: tuple[Segment, ...]
    measurements: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    frames: tuple[Frame, ...] = ()
    curves: tuple[Curve, ...] = ()
    key_planes: tuple[int, ...] = ()
    shown: tuple[tuple[Box, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.label_map.dtype != np.uint8 or self.label_map.ndim != 3:
            raise ValueError("label_map must be a 3-D uint8 array")
        if [s.value for s in self.segments] != list(range(1, len(self.segments) + 1)):
            raise ValueError("segments must have the values 1, 2, 3 ... in order")
        if int(self.label_map.max(initial=0)) > len(self.segments):
            raise ValueError("label_map holds a value that no segment describes")
        if self.frames and len(self.frames) != len(self.label_map):
            raise ValueError("frames must name an image for each plane of the label map")
        if self.shown and len(self.shown) != len(self.label_map):
            raise ValueError("shown must have boxes for each plane of the label map")
        if any(not 0 <= k < len(self.label_map) for k in self.key_planes):
            raise ValueError("key_planes must be indices of planes of the label map")
        names = [m.name for m in self.measurements]
        if len(set(names)) != len(names):
            raise ValueError("measurement names must be unique")


class TogetherFunction(Protocol):
    """A function of clips that can look at the pictures of several studies at once, which fills a GPU better."""

    def __call__(self, clips: Sequence[Clip]) -> Findings:
        """Findings of one study."""

    def together(self, studies: Sequence[Sequence[Clip]]) -> Sequence[Findings | NotAnalysed]:
        """Of several studies, in their order: what calling it with each alone would give, or raise."""


AlgorithmFunction = Callable[[Volume], Findings] | Callable[[Cine], Findings] | Callable[[Sequence[Clip]], Findings]
