"""The Encapsulated PDF: a report of one or two pages for whoever reads documents (PS3.3 A.45.1).

A view of the record, as the Secondary Capture is: the same pictures, values and notes, on A4. No name, number or date
of the patient is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import SOPClass
from pydicom import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from dicom_node.algorithm import Code, Findings
from dicom_node.encode.codes import concept, for_research, long_string
from dicom_node.encode.common import build, finish
from dicom_node.encode.context import MANUFACTURER, Context
from dicom_node.encode.panels import pictures_of
from dicom_node.encode.report_page import Report, draw_report
from dicom_node.encode.source import Source
from dicom_node.encode.uids import ResultUids

ROLE = "pdf"
SERIES_OFFSET = 4
"""Series Number after the SEG's."""
_TITLE = Code("126000", "DCM", "Imaging Measurement Report")  # CID 7021, as the record's
_SOURCE = Code("121322", "DCM", "Source image for image processing operation")


def build_pdf(findings: Findings, source: Source, headers: Sequence[Dataset], context: Context) -> Dataset:
    """The report of an analysis.

    Args:
        findings: drawn as in the Secondary Capture.
        source: the tidied series.
        headers: its headers as read from files: the pixels of the drawn planes are read from ``filename``.

    Raises:
        EncodeError: the pixels of a plane to be drawn cannot be had, or the findings cannot be written.
    """
    uid = ResultUids(context.key).instance(ROLE, "findings", *context.compared)
    pictures, _ = pictures_of(findings, source, headers)
    report = Report(context, _images(source, headers), uid, findings, pictures)
    ds = _document(report, source)
    # A screen's picture may show a name even where tissue is; what the headers say of it stays true.
    ds.BurnedInAnnotation = (
        "YES" if source.flat and any(h.get("BurnedInAnnotation") == "YES" for h in headers) else "NO"
    )
    return ds


def build_not_analysed_pdf(reason: str, source: Source, headers: Sequence[Dataset], context: Context) -> Dataset:
    """The report that says why there is no analysis.

    Args:
        reason: completes the sentence "Not analysed, because ...".

    Raises:
        EncodeError: it cannot be written.
    """
    uid = ResultUids(context.key).instance(ROLE, "not analysed", reason)
    return _document(Report(context, _images(source, headers), uid, reason=reason), source)


def _images(source: Source, headers: Sequence[Dataset]) -> str:
    """For example ``MR, 170 images``."""
    modality = long_string(str(headers[0].get("Modality") or ""), 16)
    number = len(source.images)
    return f"{modality + ', ' if modality else ''}{number} image{'s' if number > 1 else ''}"


def _document(report: Report, source: Source) -> Dataset:
    context = report.context
    identity, first = context.identity, source.first
    document = build("PDF", lambda: draw_report(report))

    def make() -> Dataset:
        ds: Dataset = SOPClass(
            study_instance_uid=first.StudyInstanceUID,
            series_instance_uid=ResultUids(context.key).series(ROLE),
            series_number=context.series_number + SERIES_OFFSET,
            sop_instance_uid=report.uid,
            sop_class_uid=EncapsulatedPDFStorage,
            instance_number=1,
            modality="DOC",
            manufacturer=MANUFACTURER,
            manufacturer_model_name=long_string(identity.name),
            software_versions=long_string(identity.version),
            device_serial_number=identity.device_uid,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_description=context.describe("PDF"),
            content_date=context.when.date(),
            content_time=context.when.time(),
        )
        ds.copy_patient_and_study_information(first)
        ds.ContributingEquipmentSequence = []
        return ds

    ds = build("Encapsulated PDF", make)
    finish(ds, source, context)
    ds.ConversionType = "WSD"
    ds.AcquisitionDateTime = None
    ds.BurnedInAnnotation = "NO"
    ds.SourceInstanceSequence = [_reference(image) for image in source.images]
    ds.DocumentTitle = for_research(f"{identity.name} {identity.version}")
    ds.ConceptNameCodeSequence = [concept(_TITLE)]
    ds.VerificationFlag = "UNVERIFIED"
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocument = document
    ds.EncapsulatedDocumentLength = len(document)
    return ds


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [concept(_SOURCE)]
    return item
