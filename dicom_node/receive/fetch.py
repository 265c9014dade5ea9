"""A study from an archive into the node, whichever way the archive gives it."""

from __future__ import annotations

from dicom_node.receive.fetch_dimse import fetch_by_get, fetch_by_move
from dicom_node.receive.fetch_web import Fetched, fetch_by_wado, fetch_from_orthanc
from dicom_node.receive.intake import Intake
from dicom_node.settings import Source


def fetch_study(source: Source, ae_title: str, study_uid: str, intake: Intake) -> Fetched:
    """Fetch a study, the way that ``source.kind`` and ``source.retrieve`` say; what came before stays as it is.

    Args:
        ae_title: the node's own, which it uses where the source's settings name no other. C-MOVE sends to it.

    Raises:
        PeerError: the archive cannot be reached, refuses, or did not give everything; retryable as a rule. What came
            is kept: another attempt completes it.
        OutOfResources: the node's disk or index could not take it.
    """
    if source.kind == "dicomweb":
        return fetch_by_wado(source, ae_title, study_uid, intake)
    if source.kind == "orthanc":
        return fetch_from_orthanc(source, ae_title, study_uid, intake)
    fetch = fetch_by_get if source.retrieve == "get" else fetch_by_move
    return fetch(source, ae_title, study_uid, intake)
