"""The Encapsulated PDF (PS3.3 A.45.1, C.24.2): its header against record and images, and that it is a whole PDF."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dicom_node.check.objects import ResultFile, Sources, code_of, items, numbers, text, value
from dicom_node.check.sr import says_not_analysed
from dicom_node.check.views import unknown_references

_TITLE = ("DCM", "126000")
_RESEARCH = "research use only"
_BEGIN = re.compile(rb"%PDF-1\.[4-7]\s")
_END = re.compile(rb"startxref\s+(\d{1,10})\s+%%EOF\s*\Z")
_TABLE = re.compile(rb"xref\s+0 (\d{1,7})\s*\n")
_ENTRY_BYTES = 20


def check_pdf(result: ResultFile, records: Sequence[ResultFile], sources: Sources) -> list[str]:
    """Every problem of an Encapsulated PDF.

    Args:
        records: the Measurement Reports of the run: the document is of the images that they are of.
        sources: empty: references to images are not checked.
    """
    ds, name = result.ds, result.name
    problems = [f"{name}: {said}" for said in _of_header(result)]
    references = items(ds, "SourceInstanceSequence")
    if not references:
        problems.append(f"{name}: SourceInstanceSequence is empty")
    problems += unknown_references(name, references, sources)
    if sources.headers:
        named = {text(r, "ReferencedSOPInstanceUID") for r in references}
        lacking = sorted((_evidence(records) & sources.by_uid.keys()) - named)
        if references and lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            problems.append(f"{name}: SourceInstanceSequence lacks {lacking[0]}{more}, which the report is of")
        shown = sources.flat and not any(map(says_not_analysed, records))
        annotated = shown and any(text(h, "BurnedInAnnotation") == "YES" for h in sources.headers)
        expected, is_ = "YES" if annotated else "NO", text(ds, "BurnedInAnnotation")
        if is_ != expected:
            problems.append(f"{name}: BurnedInAnnotation is {is_ or 'absent'}, not {expected}")
    return problems + [f"{name}: {said}" for said in _of_document(result)]


def _of_header(result: ResultFile) -> Iterator[str]:
    ds = result.ds
    title = code_of(ds, "ConceptNameCodeSequence")
    if title != _TITLE:
        yield f"the title is {title}, not {_TITLE}"
    if _RESEARCH not in text(ds, "DocumentTitle").lower():
        yield "DocumentTitle does not say 'research use only'"
    if text(ds, "VerificationFlag") != "UNVERIFIED":
        yield f"VerificationFlag is {text(ds, 'VerificationFlag') or 'absent'}, but nobody has verified it"
    if text(ds, "MIMETypeOfEncapsulatedDocument") != "application/pdf":
        yield f"MIMETypeOfEncapsulatedDocument is {text(ds, 'MIMETypeOfEncapsulatedDocument') or 'absent'}"


def _evidence(records: Sequence[ResultFile]) -> set[str]:
    """SOP Instance UIDs of this study that the records are of."""
    return {
        text(r, "ReferencedSOPInstanceUID")
        for record in records
        for study in items(record.ds, "CurrentRequestedProcedureEvidenceSequence")
        for series in items(study, "ReferencedSeriesSequence")
        for r in items(series, "ReferencedSOPSequence")
    }


def _of_document(result: ResultFile) -> Iterator[str]:
    held = bytes(value(result.ds, "EncapsulatedDocument") or b"")
    stated = int((numbers(result.ds, "EncapsulatedDocumentLength") or [-1])[0])
    # A value of odd length is padded with one zero (PS3.5 section 6.2, OB).
    if len(held) != stated + stated % 2 or held[stated:].strip(b"\0"):
        yield f"it holds {len(held)} bytes, EncapsulatedDocumentLength is {stated}"
        return
    wrong = wrong_with_pdf(held[:stated])
    if wrong:
        yield f"it holds no whole PDF: {wrong}"


def wrong_with_pdf(document: bytes) -> str:
    """Why that is no whole PDF with a cross-reference table (ISO 32000-1, 7.5), which ours has; empty where it is one.

    Each object must begin where the table says, so that nothing was cut out, put in, or encoded anew as text.
    """
    end = _END.search(document[-64:])
    if not _BEGIN.match(document) or end is None:
        return "it does not begin with %PDF-1, or not end with %%EOF"
    table = _TABLE.match(document, int(end[1]))
    if table is None:
        return "there is no cross-reference table where it should be"
    for number in range(int(table[1])):
        begin = table.end() + number * _ENTRY_BYTES
        entry = document[begin : begin + _ENTRY_BYTES].split()
        if len(entry) != 3 or entry[2] not in (b"n", b"f") or not entry[0].isdigit():
            return f"its cross-reference table is cut off at object {number}"
        if entry[2] == b"n" and not document.startswith(b"%d " % number, int(entry[0])):
            return f"object {number} is not where the cross-reference table says"
    if b"/Root" not in document[table.end() :] or not re.search(rb"/Count [1-9]", document):
        return "it has no page"
    return ""
