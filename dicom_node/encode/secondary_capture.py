"""The Secondary Capture: a picture of the findings for whatever shows images (PS3.3 A.8.1).

Outlines on the images that show them best, the values, curves. No name, number or date of the patient is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom.sc
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.algorithm import Code, Findings
from dicom_node.encode.codes import concept, long_string
from dicom_node.encode.common import build, finish
from dicom_node.encode.context import MANUFACTURER, RESEARCH_USE, Context
from dicom_node.encode.montage import draw_page
from dicom_node.encode.panels import pictures_of
from dicom_node.encode.source import Plane, Source
from dicom_node.encode.uids import ResultUids

ROLE = "sc"
SERIES_OFFSET = 3
"""Series Number after the SEG's."""
_LATERALITY = {"left": "L", "right": "R"}


def build_secondary_capture(
    findings: Findings, source: Source, headers: Sequence[Dataset], context: Context
) -> Dataset:
    """The picture of the findings as a Secondary Capture Image (RGB, native).

    Args:
        findings: key planes, or else those on which the segments are largest, are drawn.
        source: the tidied series.
        headers: its headers as read from files: the pixels of the drawn planes are read from ``filename``.

    Raises:
        EncodeError: the pixels of a plane to be drawn cannot be had, or the findings cannot be written.
    """
    pictures, drawn = pictures_of(findings, source, headers)
    page = build("picture", lambda: draw_page(findings, pictures, context))
    ds = build("Secondary Capture", lambda: _image(page, source, context))
    ds.LossyImageCompression = "00"
    finish(ds, source, context)
    _complete(ds, drawn, source, context)
    if source.flat:
        # A screen's picture may show a name even where tissue is; what the header says of it stays true.
        ds.BurnedInAnnotation = "YES" if any(p.annotated for p in pictures) else "NO"
        sides = {s.laterality for s in findings.segments}
        ds.Laterality = _LATERALITY.get(sides.pop() or "", "") if len(sides) == 1 else ""
    return ds


def _image(page: npt.NDArray[np.uint8], source: Source, context: Context) -> Dataset:
    identity, uids = context.identity, ResultUids(context.key)
    image: Dataset = highdicom.sc.SCImage.from_ref_dataset(
        source.first,
        pixel_array=page,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        # Demanded by the library; the picture holds several planes and so has no orientation (see _complete).
        patient_orientation=("L", "P"),
        series_instance_uid=uids.series(ROLE),
        series_number=context.series_number + SERIES_OFFSET,
        sop_instance_uid=uids.instance(ROLE, *context.compared),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=long_string(identity.name),
        software_versions=long_string(identity.version),
        device_serial_number=identity.device_uid,
        series_description=context.describe("picture"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    return image


def _complete(ds: Dataset, drawn: Sequence[Plane], source: Source, context: Context) -> None:
    """What the library leaves out, or takes from the clock."""
    day, time = context.when.strftime("%Y%m%d"), context.when.strftime("%H%M%S.%f")
    ds.ConversionType = "SYN"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.DateOfSecondaryCapture = ds.ContentDate = day
    ds.TimeOfSecondaryCapture = ds.ContentTime = time
    ds.PatientOrientation = None
    ds.BurnedInAnnotation = "NO"
    ds.DerivationDescription = long_string(f"Findings of {context.identity.name} {context.identity.version}", 1024)
    ds.ImageComments = RESEARCH_USE
    if "BodyPartExamined" in source.first:
        ds.BodyPartExamined = source.first.BodyPartExamined
    ds.SourceImageSequence = [_reference(plane) for plane in drawn]


def _reference(plane: Plane) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = plane.image.SOPClassUID
    item.ReferencedSOPInstanceUID = plane.image.SOPInstanceUID
    if plane.number is not None:
        item.ReferencedFrameNumber = plane.number
    item.PurposeOfReferenceCodeSequence = [
        concept(Code("121322", "DCM", "Source image for image processing operation"))
    ]
    return item
