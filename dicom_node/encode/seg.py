"""The Segmentation: a mask on the source's grid (PS3.3 A.51), BINARY or as a label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import highdicom
import highdicom.color
import highdicom.seg
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from dicom_node.algorithm import Findings, Segment
from dicom_node.encode.codes import concept, for_research, laterality, long_string
from dicom_node.encode.common import build, finish
from dicom_node.encode.context import MANUFACTURER, Context
from dicom_node.encode.frames import refer_to_frames, slices_of, stand_ins, take_off_places
from dicom_node.encode.source import Source
from dicom_node.encode.uids import ResultUids
from dicom_node.errors import EncodeError
from dicom_node.model.result import DEFAULT_ENCODING, SegEncoding, encoded_role

_SYNTAXES: Mapping[SegEncoding, UID] = {
    "binary": ExplicitVRLittleEndian,
    "labelmap": ExplicitVRLittleEndian,
    "labelmap_rle": RLELossless,
    "labelmap_jls": JPEGLSLossless,
}


def present_segments(findings: Findings) -> frozenset[int]:
    """The values that occur in the label map."""
    # Plane by plane, since it ends with the first that holds the value.
    return frozenset(s.value for s in findings.segments if any(s.value in plane for plane in findings.label_map))


def seg_encoding(findings: Findings, wanted: SegEncoding) -> SegEncoding:
    """The encoding that these findings can have: two phases at one place are two values, which no label map holds."""
    return DEFAULT_ENCODING if findings.frames else wanted


def build_seg(
    findings: Findings, source: Source, context: Context, encoding: SegEncoding = DEFAULT_ENCODING
) -> Dataset:
    """Build the SEG of a label map that is not empty.

    Frames without a voxel are left out. A segment without any voxel keeps its description, so that segment
    numbers stay the label map's values, and has no frame.

    Raises:
        EncodeError: label map and images differ in shape, or the findings cannot be written.
    """
    image = source.planes[0].image
    shape = (len(source.planes), int(image.Rows), int(image.Columns))
    if findings.label_map.shape != shape:
        raise EncodeError(f"the label map's shape is {findings.label_map.shape}, that of the source images {shape}")
    if not findings.label_map.any():
        raise EncodeError("the label map is empty: no SEG can be made of it")
    if encoding != seg_encoding(findings, encoding):
        raise EncodeError("findings on frames cannot be written as a label map")
    uids = ResultUids(context.key)
    role = encoded_role("seg", encoding)
    slices = slices_of(findings, source.planes)
    pixels = findings.label_map if len(slices) == len(source.planes) else _stacked(findings, slices)
    first = [source.planes[planes[0]] for planes in slices]
    given = stand_ins(first) if findings.frames else [plane.image for plane in first]
    seg: Dataset = build("SEG", lambda: _segmentation(pixels, findings.segments, given, context, encoding))
    if findings.frames:
        refer_to_frames(seg, findings.label_map, source.planes)
    if source.flat:
        take_off_places(seg, source.planes)
    finish(seg, source, context)
    if "BodyPartExamined" in source.first:
        seg.BodyPartExamined = source.first.BodyPartExamined
    seg.DimensionOrganizationSequence[0].DimensionOrganizationUID = uids.dimension_organization(role)
    for item in seg.DimensionIndexSequence:
        item.DimensionOrganizationUID = uids.dimension_organization(role)
    if source.flat:
        return seg
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if source.slice_distance is None:
        measures.pop("SpacingBetweenSlices", None)
    elif findings.frames or "SpacingBetweenSlices" not in measures:
        # highdicom leaves it out of a sheared stack (tilted gantry), and guesses it where slices have no frame.
        measures.SpacingBetweenSlices = f"{source.slice_distance:.10g}"
    return seg


def _stacked(findings: Findings, slices: Sequence[Sequence[int]]) -> npt.NDArray[np.uint8]:
    """One plane a slice and segment, shape (slices, rows, columns, segments): segments may overlap."""
    found = [findings.label_map[list(planes)] for planes in slices]
    return np.stack([np.stack([(x == s.value).any(0) for x in found]) for s in findings.segments], -1).astype(np.uint8)


class _Unindexed(highdicom.seg.Segmentation):  # type: ignore[misc]
    """A Segmentation without the library's index of its frames, a fifth of the time to make one.

    Only the library's own methods for reading, copying and pickling need the index, and of a file they make it anew.
    Should the library call it something else one day, there is an index again and nothing else changes.
    """

    def _build_luts(self) -> None:
        pass


def _segmentation(
    pixels: npt.NDArray[np.uint8],
    segments: tuple[Segment, ...],
    images: list[Dataset],
    context: Context,
    encoding: SegEncoding,
) -> Dataset:
    identity, uids, role = context.identity, ResultUids(context.key), encoded_role("seg", encoding)
    types = highdicom.seg.SegmentationTypeValues
    seg: Dataset = _Unindexed(
        source_images=images,
        pixel_array=pixels,
        segmentation_type=types.BINARY if encoding == DEFAULT_ENCODING else types.LABELMAP,
        segment_descriptions=[_description(s, context, uids) for s in segments],
        series_instance_uid=uids.series(role),
        series_number=context.series_number,
        sop_instance_uid=uids.instance(role),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=long_string(identity.name),
        software_versions=long_string(identity.version),
        device_serial_number=identity.device_uid,
        transfer_syntax_uid=_SYNTAXES[encoding],
        omit_empty_frames=True,
        content_label="SEGMENTATION",
        content_description=for_research(f"{identity.name} {identity.version} mask"),
        series_description=context.describe("SEG"),
        content_date=context.when.date(),
        content_time=context.when.time(),
    )
    return seg


def _description(segment: Segment, context: Context, uids: ResultUids) -> Dataset:
    identity = context.identity
    label = long_string(segment.label)
    item: Dataset = highdicom.seg.SegmentDescription(
        segment_number=segment.value,
        segment_label=label,
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=long_string(identity.name),
            family=codes.cid7162.ArtificialIntelligence,
            version=long_string(identity.version),
            source=MANUFACTURER,
        ),
        tracking_uid=uids.segment(segment.value),
        tracking_id=label,
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.color),
    )
    side = laterality(segment.laterality)
    if side is not None:
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return item
