"""From findings to the files that may leave the node."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pydicom import Dataset

from dicom_node.algorithm import Findings
from dicom_node.encode.change import PriorStudy
from dicom_node.encode.common import write
from dicom_node.encode.context import Context
from dicom_node.encode.contours import build_contours
from dicom_node.encode.secondary_capture import build_secondary_capture
from dicom_node.encode.seg import build_seg
from dicom_node.encode.source import read_source
from dicom_node.encode.sr import build_not_analysed, build_report, texts
from dicom_node.model.result import ResultObject

__all__ = ["Context", "encode_findings", "encode_not_analysed"]


def encode_findings(
    findings: Findings,
    headers: Sequence[Dataset],
    context: Context,
    out: Path,
    views: Collection[str] = (),
    prior: PriorStudy | None = None,
) -> tuple[ResultObject, ...]:
    """Write ``seg.dcm``, ``sr.dcm`` and the views into ``out``; no SEG and no contours when the label map is empty.

    The same arguments give the same bytes.

    Args:
        findings: label map, segments and measurements.
        headers: the source images; where the findings name no frames, one single-frame image a slice, in the
            order of the label map's slices.
        context: who made it, when.
        out: folder, made if absent.
        views: ``contours`` (contour report), ``sc`` (Secondary Capture); for the latter the headers' files are read.
        prior: the study that the findings' changes are since (``change.with_changes``).

    Raises:
        EncodeError: the findings cannot be written, the pixels of a picture cannot be had, or the headers lack a
            UID or a place in space.
    """
    source = read_source(headers, [*_own_texts(context), *texts(findings)], frames=findings.frames)
    seg = build_seg(findings, source, context) if findings.label_map.any() else None
    report = build_report(findings, seg, source, context, prior)
    written = [] if seg is None else [write(seg, "seg", out)]
    written.append(write(report, "sr", out))
    if seg is not None and "contours" in views:
        written.append(write(build_contours(findings, source, context), "contours", out))
    if "sc" in views:
        written.append(write(build_secondary_capture(findings, source, headers, context), "sc", out))
    return tuple(written)


def encode_not_analysed(
    reason: str, headers: Sequence[Dataset], context: Context, out: Path
) -> tuple[ResultObject, ...]:
    """Write ``sr.dcm``, which says "Not analysed, because <reason>." and refers to the source images.

    Args:
        reason: completes the sentence.
        headers: the source series in any order, however ill-formed: they are only named.

    Raises:
        EncodeError: an image has no UID, or they are of several studies or patients.
    """
    source = read_source(headers, [*_own_texts(context), reason], on_grid=False)
    return (write(build_not_analysed(reason, source, context), "sr", out),)


def _own_texts(context: Context) -> list[str]:
    identity = context.identity
    return [identity.name, identity.version, context.procedure.meaning, context.node_id, context.institution_name]
