"""References of a report to images, and its Image Library.

A study has thousands of images. The library's own items take milliseconds each to make, to copy and to check, so that
these are made here, and come into the report when the library has made that.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from highdicom import sr
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes

from dicom_node.algorithm import Code
from dicom_node.encode.codes import concept
from dicom_node.encode.report_parts import CONTAINS

SOURCE = Code("260753009", "SCT", "Source")
_SOURCE_IN_LIBRARY = Code("260753009", "SCT", "Source (attribute)")
"""TID 1601 has the same code with the meaning that SNOMED CT gives it."""


def image_reference(relationship: str, name: Code, image: Dataset, number: int | None = None) -> Dataset:
    """A content item of value type IMAGE (PS3.3 C.18.4).

    Args:
        image: its SOP Class and Instance UID are taken.
        number: Frame Number, of a multi-frame image.
    """
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    if number is not None:
        reference.ReferencedFrameNumber = number
    references = DataElement("ReferencedSOPSequence", "SQ", [reference])
    return Dataset({element.tag: element for element in (*_common(relationship, name), references)})


@cache
def _common(relationship: str, name: Code) -> tuple[DataElement, ...]:
    """What many references have in common; to convert and check it a thousand times takes seconds."""
    item = Dataset()
    item.RelationshipType = relationship
    item.ValueType = "IMAGE"
    item.ConceptNameCodeSequence = [concept(name)]
    return tuple(item)


def library_group(
    images: Iterable[Dataset], name: Code = _SOURCE_IN_LIBRARY, context: Iterable[Dataset] = ()
) -> Dataset:
    """An Image Library Group (TID 1600) with no more than the references: descriptors would repeat the headers.

    Args:
        images: SOP Class and Instance UIDs.
        name: what they are to the report.
        context: content items before the references.
    """
    group: Dataset = sr.ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type=CONTAINS)
    references = [image_reference("CONTAINS", name, image) for image in images]
    group.add(DataElement("ContentSequence", "SQ", [*context, *references]))
    return group


def add_library(report: Dataset, groups: Iterable[Dataset]) -> None:
    """Put the Image Library where TID 1500 has it: after language, observer and procedure (rows 2 to 5)."""
    library = sr.ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=CONTAINS)
    library.add(DataElement("ContentSequence", "SQ", list(groups)))
    content = report.ContentSequence
    content.insert([item.RelationshipType for item in content].index("CONTAINS"), library)
