"""Studies from archives that speak HTTP: WADO-RS (PS3.18 section 10.4) and Orthanc's REST API, streamed to disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dicom_node import log
from dicom_node.errors import InvalidInstance, OutOfResources, PeerError, ReceiveError
from dicom_node.peer.http import HttpPeer
from dicom_node.receive.arrival import Arrival
from dicom_node.receive.incoming_file import IncomingFile
from dicom_node.receive.intake import Intake
from dicom_node.receive.multipart import MultipartReader
from dicom_node.settings import Source

_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'

_logger = log.get("receive")


@dataclass
class Fetched:
    """What came of a study.

    Attributes:
        kept: instances that are here now, those that were here before included.
        refused: instances that the node does not take (not DICOM, other content than before): a note tells each.
    """

    kept: int = 0
    refused: int = 0


class _Taker:
    """Gives what comes to the intake, and counts."""

    def __init__(self, source: Source, ae_title: str, intake: Intake) -> None:
        self.fetched = Fetched()
        self.failure: OutOfResources | None = None
        self._calling = source.own_title
        self._called = ae_title
        self._intake = intake

    def file(self) -> IncomingFile:
        return IncomingFile(self._begin)

    def close(self, file: IncomingFile) -> None:
        """The file is all here.

        Raises:
            OutOfResources: the node cannot take it now.
        """
        try:
            file.finish()
            self.fetched.kept += 1
        except OutOfResources:
            raise
        except ReceiveError as e:
            self.fetched.refused += 1
            ids = {"SOPInstanceUID": file.SOPInstanceUID[:80], "calling": self._calling}
            _logger.warning("instance_refused", reason=str(e), status=f"0x{e.status:04X}", **ids)

    def _begin(self, syntax: str, sop_class: str, sop_instance: str) -> Arrival:
        return self._intake.begin(
            TransferSyntaxUID=syntax,
            SOPClassUID=sop_class,
            SOPInstanceUID=sop_instance,
            source=self._calling,
            called=self._called,
        )


class _FetchedPart:
    """One part of a WADO-RS answer."""

    def __init__(self, taker: _Taker) -> None:
        self._taker = taker
        self.file = taker.file()

    def write(self, data: memoryview) -> None:
        self.file.write(data)

    def close(self) -> None:
        self._taker.close(self.file)


def fetch_by_wado(source: Source, ae_title: str, study_uid: str, intake: Intake) -> Fetched:
    """Retrieve Study of WADO-RS, each instance in the transfer syntax that it is stored in.

    Raises:
        PeerError: as ``HttpPeer.request``; no such study (not retryable); a message that breaks off (retryable).
        OutOfResources: the node cannot take it now.
    """
    taker = _Taker(source, ae_title, intake)
    parts: list[_FetchedPart] = []

    def open_part(_headers: Mapping[str, str]) -> _FetchedPart:
        parts[:] = [_FetchedPart(taker)]
        return parts[0]

    with HttpPeer(source, str(source.dicomweb_url)) as web:
        answer = web.request(
            "GET", f"/studies/{study_uid}", headers={"Accept": _AS_STORED}, accept=(200, 206, 404, 410), stream=True
        )
        try:
            if answer.status_code not in (200, 206):
                raise PeerError(f"{web.name} has no study {study_uid}", retryable=False)
            reader = MultipartReader(answer.headers.get("Content-Type", ""), open_part)
            for piece in web.pieces(answer):
                reader.write(piece)
            reader.finish()
        except InvalidInstance as e:
            raise PeerError(f"{web.name} did not give the whole study: {e}") from e
        finally:
            answer.close()
            for part in parts:
                part.file.discard()
    if answer.status_code == 206:
        raise PeerError(f"{web.name} gave only a part of the study (HTTP 206)")
    return taker.fetched


def fetch_from_orthanc(source: Source, ae_title: str, study_uid: str, intake: Intake) -> Fetched:
    """The instances of a study that the node lacks, one file after another.

    What the node has, its own results among them, is not asked for again.

    Raises:
        PeerError: as ``HttpPeer.request``; no such study (not retryable).
        OutOfResources: the node cannot take it now.
    """
    taker = _Taker(source, ae_title, intake)
    with HttpPeer(source, str(source.orthanc_url)) as web:
        for orthanc_id, uid in _instances(web, study_uid):
            known = intake.rows.known(uid)
            if known.digest is not None or known.is_result:
                taker.fetched.kept += 1
                continue
            answer = web.request("GET", f"/instances/{orthanc_id}/file", accept=(200, 404), stream=True)
            if answer.status_code == 404:  # removed meanwhile
                answer.close()
                continue
            file = taker.file()
            try:
                for piece in web.pieces(answer):
                    file.write(memoryview(piece))
                taker.close(file)
            finally:
                file.discard()
    return taker.fetched


def _instances(web: HttpPeer, study_uid: str) -> list[tuple[str, str]]:
    """Orthanc's identifier and SOP Instance UID of each instance of a study."""
    found: Any = web.json(web.request("POST", "/tools/lookup", body=lambda: study_uid.encode("ascii")))
    try:
        studies = [str(item["ID"]) for item in found if item["Type"] == "Study"]
        if not studies:
            raise PeerError(f"{web.name} has no study {study_uid}", retryable=False)
        # A UID that two patients share is two studies for Orthanc: the node's route refuses them, and says why.
        listed = [i for s in studies for i in web.json(web.request("GET", f"/studies/{s}/instances"))]
        return [(str(i["ID"]), str(i["MainDicomTags"]["SOPInstanceUID"])) for i in listed]
    except (LookupError, TypeError) as e:
        raise PeerError(f"{web.name} did not answer as Orthanc does") from e


@dataclass(frozen=True)
class Changes:
    """A page of Orthanc's changes: the studies that became stable, and up to where that is."""

    studies: tuple[str, ...]
    point: int
    done: bool


def last_change(web: HttpPeer) -> int:
    """The number of Orthanc's latest change."""
    return _changes(web, "/changes?last").point


def changes_since(web: HttpPeer, point: int, limit: int = 500) -> Changes:
    """The studies that became stable after a point, by their Study Instance UIDs; those that are gone left out.

    Raises:
        PeerError: as ``HttpPeer.request``, or it is no Orthanc that answers.
    """
    page = _changes(web, f"/changes?since={point}&limit={limit}")
    uids = []
    for orthanc_id in dict.fromkeys(page.studies):
        answer = web.request("GET", f"/studies/{orthanc_id}", accept=(200, 404))
        if answer.status_code == 200:
            tags: Any = web.json(answer).get("MainDicomTags", {})
            uids.append(str(tags.get("StudyInstanceUID", "")))
    return Changes(tuple(uids), page.point, page.done)


def _changes(web: HttpPeer, path: str) -> Changes:
    said: Any = web.json(web.request("GET", path))
    try:
        stable = tuple(str(c["ID"]) for c in said["Changes"] if c["ChangeType"] == "StableStudy")
        return Changes(stable, int(said["Last"]), bool(said["Done"]))
    except (LookupError, TypeError, ValueError) as e:
        raise PeerError(f"{web.name} did not answer as Orthanc does") from e
