"""Asks a destination what has arrived: "sent" is not "there"."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.deliver.qido import held_by_qido
from dicom_node.errors import PeerError
from dicom_node.model.result import ResultObject
from dicom_node.peer.association import associate, peer_name
from dicom_node.settings import Destination


def confirm(
    destination: Destination, calling_ae_title: str, objects: Sequence[ResultObject], study_uid: str
) -> set[str]:
    """Which of the objects the destination says that it has.

    How it is asked is ``destination.confirm``: ``find`` (C-FIND, Study Root, PS3.4 Annex C), ``qido`` (QIDO-RS,
    PS3.18 section 10.6), or ``none``: nothing is asked.

    Returns:
        SOP Instance UIDs; empty for ``none``.

    Raises:
        PeerError: it cannot be asked; retryable unless the query itself, or who asks it, is refused.
    """
    if destination.confirm == "none" or not objects:
        return set()
    if destination.confirm == "qido":
        return held_by_qido(destination, objects, study_uid)
    return _held_by_find(destination, calling_ae_title, objects, study_uid)


class _FindRefused(PeerError):
    """The peer answered the query with a failure status."""


def _held_by_find(
    destination: Destination, calling_ae_title: str, objects: Sequence[ResultObject], study_uid: str
) -> set[str]:
    model = str(StudyRootQueryRetrieveInformationModelFind)
    contexts = [(model, str(ExplicitVRLittleEndian)), (model, str(ImplicitVRLittleEndian))]
    with associate(destination, calling_ae_title, contexts) as association:
        try:
            return {o.SOPInstanceUID for o in objects if _image_held(destination, association, o, study_uid)}
        except _FindRefused as refused:
            if refused.retryable:
                raise
        # Some archives know no IMAGE level. A result series holds result objects only, so its count is evidence.
        wanted = Counter(o.SeriesInstanceUID for o in objects)
        held = {uid: _series_count(destination, association, uid, study_uid) for uid in wanted}
        return {o.SOPInstanceUID for o in objects if held[o.SeriesInstanceUID] >= wanted[o.SeriesInstanceUID]}


def _image_held(destination: Destination, association: Any, wanted: ResultObject, study_uid: str) -> bool:
    query = _query("IMAGE", study_uid, wanted.SeriesInstanceUID)
    query.SOPInstanceUID = wanted.SOPInstanceUID
    matches = _find(destination, association, query)
    # An archive that ignores the key answers with every instance of the series.
    return any(m.get("SOPInstanceUID") == wanted.SOPInstanceUID for m in matches)


def _series_count(destination: Destination, association: Any, series_uid: str, study_uid: str) -> int:
    query = _query("SERIES", study_uid, series_uid)
    query.NumberOfSeriesRelatedInstances = None
    matches = _find(destination, association, query)
    counts = [m.get("NumberOfSeriesRelatedInstances") for m in matches if m.get("SeriesInstanceUID") == series_uid]
    return max((int(c) for c in counts if c is not None), default=0)


def _query(level: str, study_uid: str, series_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    return query


def _find(destination: Destination, association: Any, query: Dataset) -> list[Dataset]:
    """The identifiers of all matches; the response's Status is that of PS3.4 section C.4.1.1.4."""
    peer = peer_name(destination)
    matches: list[Dataset] = []
    started = time.monotonic()
    try:
        for status, identifier in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            if "Status" not in status:
                late = time.monotonic() - started >= destination.timeout_seconds
                # Orthanc, for one, hangs up on an AE title that it does not list.
                said = "did not answer the query in time" if late else "ended the association at the query"
                raise PeerError(f"{peer} {said}: may {association.requestor.ae_title} ask it?")
            if status.Status in (0xFF00, 0xFF01):
                if identifier is not None:
                    matches.append(identifier)
            elif status.Status != 0x0000:
                raise _FindRefused(
                    f"{peer} refused the {query.QueryRetrieveLevel} query with 0x{status.Status:04X}",
                    # Out of resources passes; the other failures say that it does not understand such a query.
                    retryable=0xA700 <= status.Status <= 0xA7FF,
                )
    except RuntimeError as e:
        # pynetdicom's word for an association that ended before the call.
        raise PeerError(f"{peer} ended the association before the query") from e
    return matches
