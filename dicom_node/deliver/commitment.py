"""Tells a requestor of storage commitment, over an association of ours, what became of its request."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.errors import PeerError
from dicom_node.peer.association import associate, peer_name
from dicom_node.settings_peers import PeerSettings

_MODEL = str(StorageCommitmentPushModel)
_TRANSIENT = (0x0110, 0x0213)


def tell(requestor: PeerSettings, calling_ae_title: str, event_type: int, information: Dataset) -> None:
    """One N-EVENT-REPORT (PS3.4 section J.3.3), as SCP of the association that we request.

    Raises:
        PeerError: the requestor cannot be reached, did not answer, or refused the report.
    """
    contexts = [(_MODEL, str(syntax)) for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)]
    with associate(requestor, calling_ae_title, contexts, as_scp=[_MODEL]) as association:
        try:
            answer, _ = association.send_n_event_report(
                information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except RuntimeError as e:
            # pynetdicom's word for an association that ended before the call.
            raise PeerError(f"{peer_name(requestor)} ended the association before the report") from e
        if "Status" not in answer:
            raise PeerError(f"{peer_name(requestor)} did not answer the report")
        if answer.Status != 0x0000:
            said = f"{peer_name(requestor)} refused the report with 0x{answer.Status:04X}"
            raise PeerError(said, retryable=answer.Status in _TRANSIENT)
