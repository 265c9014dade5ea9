"""From findings to the files that may leave the node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from pathlib import Path

from pydicom import Dataset

from dicom_node.algorithm import Findings
from dicom_node.encode.change import PriorStudy
from dicom_node.encode.common import write
from dicom_node.encode.context import Context
from dicom_node.encode.contours import build_contours
from dicom_node.encode.pdf import build_not_analysed_pdf, build_pdf
from dicom_node.encode.secondary_capture import build_secondary_capture
from dicom_node.encode.seg import build_seg, seg_encoding
from dicom_node.encode.source import read_source
from dicom_node.encode.sr import build_not_analysed, build_report, texts
from dicom_node.errors import EncodeError
from dicom_node.model.result import DEFAULT_ENCODING, ResultObject, SegEncoding, encoded_role

__all__ = ["Context", "encode_findings", "encode_not_analysed"]


def encode_findings(
    findings: Findings,
    headers: Sequence[Dataset],
    context: Context,
    out: Path,
    views: Collection[str] = (),
    prior: PriorStudy | None = None,
    *,
    encodings: Collection[SegEncoding] = (),
    missing: MutableMapping[str, str] | None = None,
) -> tuple[ResultObject, ...]:
    """Write ``seg.dcm``, ``sr.dcm`` and the views into ``out``; no SEG and no contours when the label map is empty.

    The same arguments give the same bytes.

    Args:
        findings: label map, segments and measurements.
        headers: the source images; where the findings name no frames, one single-frame image a slice, in the
            order of the label map's slices.
        context: who made it, when.
        out: folder, made if absent.
        views: ``contours`` (contour report), ``sc`` (Secondary Capture), ``pdf`` (Encapsulated PDF); for the last two
            the headers' files are read.
        prior: the study that the findings' changes are since (``change.with_changes``).
        encodings: of the SEG, beside BINARY: each gives a SEG of its own and an SR that refers to it. Where the
            findings cannot be written so, there is BINARY only.
        missing: gets the reason why a view could not be made, by its role; the record is written without it.
            None: that is an error.

    Raises:
        EncodeError: the findings cannot be written, the pixels of a picture cannot be had, or the headers lack a
            UID or a place in space.
    """
    source = read_source(headers, [*_own_texts(context), *texts(findings)], frames=findings.frames)
    written: list[ResultObject] = []
    marked = bool(findings.label_map.any())
    wanted = {DEFAULT_ENCODING, *(seg_encoding(findings, e) for e in encodings if marked)}
    for encoding in sorted(wanted):
        seg = build_seg(findings, source, context, encoding) if marked else None
        report = build_report(findings, seg, source, context, encoding, prior)
        if seg is not None:
            written.append(write(seg, encoded_role("seg", encoding), out))
        written.append(write(report, encoded_role("sr", encoding), out))
    made: dict[str, Callable[[], Dataset]] = {
        "contours": lambda: build_contours(findings, source, context),
        "sc": lambda: build_secondary_capture(findings, source, headers, context),
        "pdf": lambda: build_pdf(findings, source, headers, context),
    }
    wanted_views = {r: make for r, make in made.items() if r in views and (marked or r != "contours")}
    return (*written, *_write_views(wanted_views, out, missing))


def _write_views(
    made: Mapping[str, Callable[[], Dataset]], out: Path, missing: MutableMapping[str, str] | None
) -> list[ResultObject]:
    """Those that can be made; see :func:`encode_findings` for the others."""
    written = []
    for role, make in made.items():
        try:
            written.append(write(make(), role, out))
        except EncodeError as e:
            if missing is None:
                raise
            missing[role] = str(e)
    return written


def encode_not_analysed(
    reason: str,
    headers: Sequence[Dataset],
    context: Context,
    out: Path,
    views: Collection[str] = (),
    *,
    missing: MutableMapping[str, str] | None = None,
) -> tuple[ResultObject, ...]:
    """Write ``sr.dcm``, which says "Not analysed, because <reason>." and refers to the source images.

    Args:
        reason: completes the sentence.
        headers: the source series in any order, however ill-formed: they are only named.
        views: ``pdf``: a document that says the same; of others there is none.
        missing: as in :func:`encode_findings`.

    Raises:
        EncodeError: an image has no UID, or they are of several studies or patients.
    """
    source = read_source(headers, [*_own_texts(context), reason], on_grid=False)
    report = write(build_not_analysed(reason, source, context), "sr", out)
    made = {"pdf": lambda: build_not_analysed_pdf(reason, source, headers, context)}
    return (report, *_write_views({r: make for r, make in made.items() if r in views}, out, missing))


def _own_texts(context: Context) -> list[str]:
    identity = context.identity
    return [identity.name, identity.version, context.procedure.meaning, context.node_id, context.institution_name]
