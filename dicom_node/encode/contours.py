"""The contour report: the measurements on the outlines of what they are of, for viewers that show no SEG.

A Comprehensive SR by TID 1500 (PS3.16) in a series of its own. It is a view of the record, which is the
Measurement Report on the SEG: same values, same tracking identifiers, nothing that the record has not.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt
from highdicom import sr
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.algorithm import Code, Findings, Measurement
from dicom_node.encode.codes import concept, long_string
from dicom_node.encode.common import build, finish
from dicom_node.encode.context import MANUFACTURER, Context
from dicom_node.encode.outlines import best_first, outlines_of_planes
from dicom_node.encode.references import SOURCE, add_library, image_reference, library_group
from dicom_node.encode.report_parts import CONTAINS, algorithm_identification, comment, measurement_item, sentences
from dicom_node.encode.seg import present_segments
from dicom_node.encode.source import Plane, Source
from dicom_node.encode.sr import report_root
from dicom_node.encode.uids import ResultUids
from dicom_node.errors import EncodeError

ROLE = "contours"
SERIES_OFFSET = 2
"""Series Number after the SEG's."""
_IMAGE_REGION = Code("111030", "DCM", "Image Region")


def build_contours(findings: Findings, source: Source, context: Context) -> Dataset:
    """The contour report of a label map that is not empty.

    One group (TID 1411) for each segment that has voxels, and one for each set of segments that a measurement is
    of, with the outlines on all images (SCOORD POLYLINE, the image that shows it best first) and the values.
    What is measured of no segment has no place on an image and is a sentence.

    Raises:
        EncodeError: the label map is empty, or the findings cannot be written.
    """
    if not findings.label_map.any():
        raise EncodeError("the label map is empty: it has no contours")
    uids = ResultUids(context.key)
    identity = context.identity
    regions = _Regions(findings, source, context)

    def make() -> Dataset:
        # The library would copy and walk through each outline several times: the groups come in afterwards.
        # The evidence is complete without them: it names every image.
        report: Dataset = sr.ComprehensiveSR(
            evidence=list(source.images),
            content=report_root([], regions.remarks(), context),
            series_instance_uid=uids.series(ROLE),
            series_number=context.series_number + SERIES_OFFSET,
            sop_instance_uid=uids.instance(ROLE, *context.compared),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=long_string(identity.name),
            software_versions=long_string(identity.version),
            device_serial_number=identity.device_uid,
            is_complete=True,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_description=context.describe("contours"),
            content_date=context.when.date(),
            content_time=context.when.time(),
            specific_character_set=None,
        )
        add_library(report, [library_group(source.images)])
        return report

    report = build("contour SR", make)
    report.ContentSequence.insert(-1, build("contour SR", regions.container))
    finish(report, source, context)
    return report


class _Regions:
    """The measurement groups, each on its outlines."""

    def __init__(self, findings: Findings, source: Source, context: Context) -> None:
        self.findings = findings
        self.planes = source.planes
        self.context = context
        self.uids = ResultUids(context.key)
        self.present = present_segments(findings)
        self.images: dict[int, DataElement] = {}

    def container(self) -> Dataset:
        """Imaging Measurements (TID 1500 row 9), with all groups."""
        item: Dataset = sr.ContainerContentItem(codes.DCM.ImagingMeasurements, relationship_type=CONTAINS)
        item.ContentSequence = sr.ContentSequence(self.groups())
        return item

    def groups(self) -> list[Dataset]:
        """One for each segment, in their order, then one for each set of several segments that was measured."""
        sets: dict[tuple[int, ...], None] = {
            (s.value,): None for s in self.findings.segments if s.value in self.present
        }
        sets |= {m.segments: None for m in self.findings.measurements if len(self._marked(m.segments)) > 1}
        return [self._group(values) for values in sets]

    def remarks(self) -> list[Dataset]:
        """The algorithm's notes, and what could not be given a place on an image."""
        homeless = [m for m in self.findings.measurements if not self._is_on_an_image(m)]
        said = [*self.findings.notes, *(s for m in homeless for s in sentences(m))]
        return [comment(text) for text in said]

    def _marked(self, values: Iterable[int]) -> list[int]:
        return sorted(self.present.intersection(values))

    def _is_on_an_image(self, m: Measurement) -> bool:
        marked = self._marked(m.segments)
        return len(marked) > 1 or (len(m.segments) == 1 and len(marked) == 1)

    def _group(self, values: tuple[int, ...]) -> Dataset:
        own = [m for m in self.findings.measurements if m.segments == values]
        described = [s for s in self.findings.segments if s.value in values and s.value in self.present]
        single = described[0] if len(values) == 1 else None
        label = " and ".join(s.label for s in described)
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=self.uids.segment(single.value) if single else self.uids.region(values),
                identifier=long_string(label),
            ),
            referenced_regions=[_stand_in(self.planes[0])],
            finding_category=concept(described[0].category),
            finding_type=concept(described[0].type if single else own[0].site),
            algorithm_id=algorithm_identification(self.context),
            measurements=[measurement_item(m, self.uids) for m in own],
        )
        for text in (s for m in own for s in sentences(m)):
            group[0].ContentSequence.append(comment(text))
        item: Dataset = group[0]
        # The library's own items take milliseconds each to make and to check, and there may be a thousand outlines.
        found: list[Dataset] = []
        for child in item.ContentSequence:
            found += list(self._outlines(values)) if child.ValueType == "SCOORD" else [child]
        item.add(DataElement("ContentSequence", "SQ", found))
        return item

    def _outlines(self, values: tuple[int, ...]) -> Iterable[Dataset]:
        labels = self.findings.label_map
        masks = labels == values[0] if len(values) == 1 else np.isin(labels, values)
        lines = outlines_of_planes(masks)
        for index in best_first(masks, self.findings.key_planes):
            if index not in self.images:
                self.images[index] = on_image(self.planes[index])
            for line in lines[index]:
                yield region(line, self.images[index])


def region(line: npt.NDArray[np.float64], image: DataElement) -> Dataset:
    """An Image Region (TID 1411 row 5): a closed line on its image, as SCOORD (PS3.3 C.18.6).

    Args:
        line: (points, 2), the first point repeated at the end; see :func:`dicom_node.encode.outlines.outlines`.
        image: Content Sequence with the image, see :func:`on_image`. All regions of an image share it.
    """
    points = DataElement("GraphicData", "FL", line.ravel().tolist(), already_converted=True)
    return Dataset({element.tag: element for element in (*_region(), points, image)})


@cache
def _region() -> tuple[DataElement, ...]:
    """What all regions have in common; to convert and check it a thousand times takes seconds."""
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "SCOORD"
    item.ConceptNameCodeSequence = [concept(_IMAGE_REGION)]
    item.GraphicType = "POLYLINE"
    return tuple(item)


def on_image(plane: Plane) -> DataElement:
    """The Content Sequence of a region: the image, or the frame of one, that it lies on."""
    image = image_reference("SELECTED FROM", SOURCE, plane.image, plane.number)
    return DataElement("ContentSequence", "SQ", [image])


def _stand_in(plane: Plane) -> sr.ImageRegion:
    """What the library wants a group to have before the outlines come in."""
    square = np.array([(0.5, 0.5), (1.5, 0.5), (1.5, 1.5), (0.5, 0.5)])
    return sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, square, _source_image(plane))


def _source_image(plane: Plane) -> sr.SourceImageForRegion:
    return sr.SourceImageForRegion(
        referenced_sop_class_uid=plane.image.SOPClassUID,
        referenced_sop_instance_uid=plane.image.SOPInstanceUID,
        referenced_frame_numbers=None if plane.number is None else [plane.number],
    )
