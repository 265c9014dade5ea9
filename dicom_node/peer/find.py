"""C-FIND (PS3.4 Annex C, Study Root) as SCU."""

from __future__ import annotations

import time
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.errors import PeerError
from dicom_node.peer.association import peer_name
from dicom_node.settings_peers import PeerSettings

_MODEL = str(StudyRootQueryRetrieveInformationModelFind)
FIND_CONTEXTS = ((_MODEL, str(ExplicitVRLittleEndian)), (_MODEL, str(ImplicitVRLittleEndian)))
"""What to propose for an association on which :func:`find` is called."""


class FindRefused(PeerError):
    """The peer answered the query with a failure status."""


def find(peer: PeerSettings, association: Any, query: Dataset) -> list[Dataset]:
    """The identifiers of all matches; the response's Status is that of PS3.4 section C.4.1.1.4.

    Args:
        association: with one of ``FIND_CONTEXTS`` accepted.
        query: with its QueryRetrieveLevel.

    Raises:
        FindRefused: a failure status; retryable when it is one of resources.
        PeerError: no answer, or the association ended (retryable).
    """
    name = peer_name(peer)
    matches: list[Dataset] = []
    started = time.monotonic()
    try:
        for status, identifier in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            if "Status" not in status:
                late = time.monotonic() - started >= peer.timeout_seconds
                # Orthanc, for one, hangs up on an AE title that it does not list.
                said = "did not answer the query in time" if late else "ended the association at the query"
                raise PeerError(f"{name} {said}: may {association.requestor.ae_title} ask it?")
            if status.Status in (0xFF00, 0xFF01):
                if identifier is not None:
                    matches.append(identifier)
            elif status.Status != 0x0000:
                raise FindRefused(
                    f"{name} refused the {query.QueryRetrieveLevel} query with 0x{status.Status:04X}",
                    # Out of resources passes; the other failures say that it does not understand such a query.
                    retryable=0xA700 <= status.Status <= 0xA7FF,
                )
    except RuntimeError as e:
        # pynetdicom's word for an association that ended before the call.
        raise PeerError(f"{name} ended the association before the query") from e
    return matches
