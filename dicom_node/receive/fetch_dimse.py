"""Studies from archives that speak DIMSE: C-MOVE and C-GET (PS3.4 Annex C, Study Root) as SCU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydicom import Dataset
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom.sop_class import (
    _STORAGE_CLASSES,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node import log
from dicom_node.errors import OutOfResources, PeerError, ReceiveError
from dicom_node.peer.association import MAXIMUM_CONTEXTS, associate, peer_name
from dicom_node.receive.fetch_web import Fetched
from dicom_node.receive.intake import Intake
from dicom_node.settings import Source

_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEG2000,
    JPEGLSNearLossless,
)
_SUCCESS, _WARNING, _PENDING = 0x0000, 0xB000, (0xFF00, 0xFF01)

_logger = log.get("receive")


def fetch_by_move(source: Source, ae_title: str, study_uid: str, intake: Intake) -> Fetched:
    """C-MOVE of a study to the node's own listener, which keeps what comes.

    Raises:
        PeerError: as ``associate``; the archive does not know the node (0xA801), or another failure; some of the
            sub-operations failed (retryable).
    """
    model = StudyRootQueryRetrieveInformationModelMove
    contexts = [(str(model), str(ExplicitVRLittleEndian)), (str(model), str(ImplicitVRLittleEndian))]
    destination = source.calling_ae_title or ae_title
    with associate(source, ae_title, contexts) as association:
        last = _final(source, association, association.send_c_move(_query(study_uid), destination, model))
    if last.Status == 0xA801:
        raise PeerError(f"{peer_name(source)} does not know the AE title {destination} to move to", retryable=False)
    intake.rows.flush()
    return Fetched(kept=_checked(source, last))


def fetch_by_get(source: Source, ae_title: str, study_uid: str, intake: Intake) -> Fetched:
    """C-GET of a study: it comes over the association that asks for it, one instance in memory at a time.

    Raises:
        PeerError: as ``associate``; a failure; some of the sub-operations failed (retryable).
        OutOfResources: the node cannot take it now.
    """
    fetched = Fetched()
    failures: list[OutOfResources] = []
    calling = source.own_title

    def on_store(event: Any) -> int:
        """Keep one instance.

        Returns:
            0x0000 Success, also for one that the node does not take, which is noted: the archive could not help it;
            0xA700 Out of Resources.
        """
        request = event.request
        arrival = intake.begin(
            TransferSyntaxUID=str(event.context.transfer_syntax),
            SOPClassUID=str(request.AffectedSOPClassUID),
            SOPInstanceUID=str(request.AffectedSOPInstanceUID),
            source=calling,
            called=ae_title,
        )
        try:
            arrival.finish(request.DataSet.getbuffer())
            fetched.kept += 1
        except OutOfResources as e:
            failures.append(e)
            return e.status
        except ReceiveError as e:
            fetched.refused += 1
            _logger.warning("instance_refused", reason=str(e), status=f"0x{e.status:04X}", calling=calling)
        return _SUCCESS

    model = StudyRootQueryRetrieveInformationModelGet
    contexts = [(str(model), str(ExplicitVRLittleEndian)), (str(model), str(ImplicitVRLittleEndian))]
    classes = _storage_classes(MAXIMUM_CONTEXTS - len(contexts))
    receives = dict.fromkeys(classes, tuple(str(uid) for uid in _SYNTAXES))
    with associate(source, ae_title, contexts, receives=receives, on_store=on_store) as association:
        last = _final(source, association, association.send_c_get(_query(study_uid), model))
    if failures:
        raise failures[0]
    _checked(source, last)
    return fetched


def _query(study_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_uid
    return query


def _storage_classes(most: int) -> list[str]:
    """As many SOP Classes as an association has room for, those with images first."""
    by_name = sorted(_STORAGE_CLASSES.items(), key=lambda item: ("Image" not in item[0], item[0]))
    return [str(uid) for _, uid in by_name][:most]


def _final(source: Source, association: Any, responses: Iterable[tuple[Dataset, Any]]) -> Dataset:
    """The last response.

    Raises:
        PeerError: none came.
    """
    last = Dataset()
    try:
        for last, _ in responses:
            if "Status" not in last:
                break
    except (RuntimeError, ValueError) as e:
        # pynetdicom's words for an association that ended, or has no context for it.
        raise PeerError(f"{peer_name(source)} does not take the retrieval: {type(e).__name__}") from e
    if "Status" not in last or last.Status in _PENDING:
        raise PeerError(
            f"{peer_name(source)} ended the association, or fell silent, in the middle of the retrieval: "
            f"may {association.requestor.ae_title} ask it?"
        )
    return last


def _checked(source: Source, last: Dataset) -> int:
    """How many sub-operations the final response (PS3.4 sections C.4.2.1.4 and C.4.3.1.4) says were completed.

    Raises:
        PeerError: it is a failure, or some failed.
    """
    done = int(last.get("NumberOfCompletedSuboperations") or 0) + int(last.get("NumberOfWarningSuboperations") or 0)
    failed = int(last.get("NumberOfFailedSuboperations") or 0)
    if last.Status not in (_SUCCESS, _WARNING):
        # Out of resources passes; that the archive cannot understand does not.
        retryable = last.Status in (0xA701, 0xA702) or last.Status & 0xF000 == 0xF000
        raise PeerError(f"{peer_name(source)} refused the retrieval with 0x{last.Status:04X}", retryable=retryable)
    if failed:
        raise PeerError(f"{peer_name(source)} could not give {failed} of {done + failed} instances")
    if not done:
        raise PeerError(f"{peer_name(source)} has nothing of the study", retryable=False)
    return done
