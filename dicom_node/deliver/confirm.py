"""Asks a destination what has arrived: "sent" is not "there"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydicom import Dataset

from dicom_node.deliver.orthanc import held_by_orthanc
from dicom_node.model.result import ResultObject
from dicom_node.peer.association import associate
from dicom_node.peer.find import FIND_CONTEXTS, FindRefused, find
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.qido import search
from dicom_node.settings import Destination


def confirm(
    destination: Destination, calling_ae_title: str, objects: Sequence[ResultObject], study_uid: str
) -> set[str]:
    """Which of the objects the destination says that it has.

    How it is asked is ``destination.confirm``: ``find`` (C-FIND, Study Root, PS3.4 Annex C), ``qido`` (QIDO-RS,
    PS3.18 section 10.6), ``orthanc`` (its REST API), or ``none``: nothing is asked.

    Returns:
        SOP Instance UIDs; empty for ``none``.

    Raises:
        PeerError: it cannot be asked; retryable unless the query itself, or who asks it, is refused.
    """
    if destination.confirm == "none" or not objects:
        return set()
    if destination.confirm == "qido":
        return _held_by_qido(destination, objects, study_uid)
    if destination.confirm == "orthanc":
        return held_by_orthanc(destination, objects)
    return _held_by_find(destination, calling_ae_title, objects, study_uid)


def _held_by_qido(destination: Destination, objects: Sequence[ResultObject], study_uid: str) -> set[str]:
    with HttpPeer(destination, str(destination.dicomweb_url)) as web:
        return {o.SOPInstanceUID for o in objects if _instance_held(web, o, study_uid)}


def _instance_held(web: HttpPeer, wanted: ResultObject, study_uid: str) -> bool:
    # The one instance resource that every origin server must offer (PS3.18 table 10.6.1-2).
    resource = f"/studies/{study_uid}/series/{wanted.SeriesInstanceUID}/instances"
    found = search(web, resource, {"SOPInstanceUID": wanted.SOPInstanceUID})
    return any(ds.get("SOPInstanceUID") == wanted.SOPInstanceUID for ds in found)


def _held_by_find(
    destination: Destination, calling_ae_title: str, objects: Sequence[ResultObject], study_uid: str
) -> set[str]:
    with associate(destination, calling_ae_title, FIND_CONTEXTS) as association:
        try:
            return {o.SOPInstanceUID for o in objects if _image_held(destination, association, o, study_uid)}
        except FindRefused as refused:
            if refused.retryable:
                raise
        # Some archives know no IMAGE level. A result series holds result objects only, so its count is evidence.
        wanted = Counter(o.SeriesInstanceUID for o in objects)
        held = {uid: _series_count(destination, association, uid, study_uid) for uid in wanted}
        return {o.SOPInstanceUID for o in objects if held[o.SeriesInstanceUID] >= wanted[o.SeriesInstanceUID]}


def _image_held(destination: Destination, association: Any, wanted: ResultObject, study_uid: str) -> bool:
    query = _query("IMAGE", study_uid, wanted.SeriesInstanceUID)
    query.SOPInstanceUID = wanted.SOPInstanceUID
    matches = find(destination, association, query)
    # An archive that ignores the key answers with every instance of the series.
    return any(m.get("SOPInstanceUID") == wanted.SOPInstanceUID for m in matches)


def _series_count(destination: Destination, association: Any, series_uid: str, study_uid: str) -> int:
    query = _query("SERIES", study_uid, series_uid)
    query.NumberOfSeriesRelatedInstances = None
    matches = find(destination, association, query)
    counts = [m.get("NumberOfSeriesRelatedInstances") for m in matches if m.get("SeriesInstanceUID") == series_uid]
    return max((int(c) for c in counts if c is not None), default=0)


def _query(level: str, study_uid: str, series_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    return query
