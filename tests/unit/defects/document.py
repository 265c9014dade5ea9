"""Defects of the Encapsulated PDF."""

from __future__ import annotations

import re
from collections.abc import Callable

from pydicom import Dataset

BreakOne = Callable[[Dataset], None]


def _document(ds: Dataset) -> bytes:
    return bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])


def _put(ds: Dataset, document: bytes) -> None:
    """Another document, of the length that is stated."""
    ds.EncapsulatedDocument, ds.EncapsulatedDocumentLength = document, len(document)


def _other_length(ds: Dataset) -> None:
    ds.EncapsulatedDocumentLength -= 2


def _no_length(ds: Dataset) -> None:
    del ds.EncapsulatedDocumentLength


def _no_pdf(ds: Dataset) -> None:
    _put(ds, b"<html>" + _document(ds)[6:])


def _empty(ds: Dataset) -> None:
    _put(ds, b"")


def _cut_short(ds: Dataset) -> None:
    _put(ds, _document(ds)[:-200])


def _cut_within(ds: Dataset) -> None:
    document = _document(ds)
    _put(ds, document[:400] + document[410:])


def _line_ends(ds: Dataset) -> None:
    """As after a transfer as text."""
    _put(ds, _document(ds).replace(b"\n", b"\r\n"))


def _object_elsewhere(ds: Dataset) -> None:
    document = _document(ds)
    found = re.search(rb"\n5 0 obj", document)
    assert found is not None
    _put(ds, document[: found.start()] + b" 6 0 obj" + document[found.end() :])


def _no_page(ds: Dataset) -> None:
    _put(ds, re.sub(rb"/Count \d", b"/Count 0", _document(ds)))


def _mime_type(ds: Dataset) -> None:
    ds.MIMETypeOfEncapsulatedDocument = "text/XML"


def _title(ds: Dataset) -> None:
    ds.DocumentTitle = "Hippocampus 1.2.3"


def _concept(ds: Dataset) -> None:
    ds.ConceptNameCodeSequence = []


def _verified(ds: Dataset) -> None:
    ds.VerificationFlag = "VERIFIED"


def _burned_in(ds: Dataset) -> None:
    ds.BurnedInAnnotation = "YES"


def _no_source(ds: Dataset) -> None:
    ds.SourceInstanceSequence = []


def _a_source_less(ds: Dataset) -> None:
    del ds.SourceInstanceSequence[3]


def _unknown_source(ds: Dataset) -> None:
    ds.SourceInstanceSequence[2].ReferencedSOPInstanceUID = "1.2.3"


def _class_of_source(ds: Dataset) -> None:
    ds.SourceInstanceSequence[2].ReferencedSOPClassUID = "1.2.3"


def _other_modality(ds: Dataset) -> None:
    ds.Modality = "SR"


def _other_patient(ds: Dataset) -> None:
    ds.PatientID = "SECRET-1"


def _other_study(ds: Dataset) -> None:
    ds.StudyInstanceUID = "2.25.999"


def _not_for_research(ds: Dataset) -> None:
    ds.SeriesDescription = "Hippocampus PDF"


def _no_algorithm(ds: Dataset) -> None:
    del ds.ContributingEquipmentSequence


PDF: dict[BreakOne, str] = {
    _other_length: r"pdf\.dcm: it holds \d+ bytes, EncapsulatedDocumentLength is",
    _no_length: r"pdf\.dcm: it holds \d+ bytes, EncapsulatedDocumentLength is -1",
    _no_pdf: "it holds no whole PDF: it does not begin with %PDF-1",
    _empty: "it holds no whole PDF: it does not begin with %PDF-1",
    _cut_short: "it holds no whole PDF: .* not end with %%EOF",
    _cut_within: "it holds no whole PDF: there is no cross-reference table where it should be",
    _line_ends: "it holds no whole PDF: there is no cross-reference table where it should be",
    _object_elsewhere: "it holds no whole PDF: object 5 is not where the cross-reference table says",
    _no_page: "it holds no whole PDF: it has no page",
    _mime_type: "MIMETypeOfEncapsulatedDocument is text/XML",
    _title: "DocumentTitle does not say 'research use only'",
    _concept: "the title is",
    _verified: "VerificationFlag is VERIFIED, but nobody has verified it",
    _burned_in: "BurnedInAnnotation is YES, not NO",
    _no_source: "SourceInstanceSequence is empty",
    _a_source_less: r"SourceInstanceSequence lacks [\d.]+, which the report is of",
    _unknown_source: "no source image: 1.2.3",
    _class_of_source: "another class",
    _other_modality: "Modality is SR, not DOC",
    _other_patient: r"pdf\.dcm: PatientID is not that of the source images",
    _other_study: r"pdf\.dcm: StudyInstanceUID is 2\.25\.999",
    _not_for_research: r"pdf\.dcm: SeriesDescription does not say",
    _no_algorithm: r"pdf\.dcm: ContributingEquipmentSequence has no item for the algorithm",
}
