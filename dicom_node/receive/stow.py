"""One Store transaction of STOW-RS (PS3.18 section 10.5): what comes, and what is answered. No HTTP in here."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicom_node import log
from dicom_node.errors import InvalidInstance, OutOfResources, ReceiveError
from dicom_node.model.instance import Instance
from dicom_node.receive.arrival import Arrival
from dicom_node.receive.incoming_file import IncomingFile
from dicom_node.receive.intake import Intake
from dicom_node.receive.multipart import MultipartReader
from dicom_node.store.files import FileStore, Incoming
from dicom_node.store.rows import RowWriter

OK: Final = 200
ACCEPTED: Final = 202
BAD_REQUEST: Final = 400
CONFLICT: Final = 409
UNAVAILABLE: Final = 503

_OUT_OF_RESOURCES = 0xA700
_PROCESSING_FAILURE = 0x0110

_logger = log.get("receive")


@dataclass(frozen=True)
class _Refused:
    SOPClassUID: str
    SOPInstanceUID: str
    status: int


class _OneStudy:
    """An intake that keeps instances of one study only."""

    def __init__(self, intake: Intake, study_uid: str) -> None:
        self.files: FileStore = intake.files
        self.rows: RowWriter = intake.rows
        self.largest_bytes = intake.largest_bytes
        self._intake = intake
        self._study_uid = study_uid

    def keep(self, instance: Instance, head: bytes, last: bytes | memoryview, file: Incoming | None) -> Instance:
        """As ``Intake.keep``.

        Raises:
            InvalidInstance: it is of another study.
        """
        if instance.StudyInstanceUID != self._study_uid:
            raise InvalidInstance("the instance is of another study than the request is for")
        return self._intake.keep(instance, head, last, file)

    def note_refused(self, study_uid: str, sop_uid: str, why: InvalidInstance) -> None:
        """As ``Intake.note_refused``."""
        self._intake.note_refused(study_uid, sop_uid, why)


class StoreRequest:
    """Takes the body of a Store request piece by piece; each instance is kept as soon as its part ends.

    The same guarantees as for C-STORE: an instance is named as stored when it is as safe as ``receive.durability``
    says. For one thread at a time.

    Args:
        content_type: the request's.
        source: who sends, as an AE title.
        called: the node's AE title.
        study_uid: of a request for one study; else empty.

    Raises:
        InvalidInstance: on construction: the content type is not multipart/related.
    """

    def __init__(self, intake: Intake, content_type: str, source: str, called: str, study_uid: str = "") -> None:
        self._intake = intake
        self._keeper = _OneStudy(intake, study_uid) if study_uid else intake
        self._source = source
        self._called = called
        self._reader = MultipartReader(content_type, self._open_part)
        self._part: _StorePart | None = None
        self._stored: list[Instance] = []
        self._refused: list[_Refused] = []
        self._broken = ""

    def write(self, data: bytes) -> None:
        """Take a piece of the body; what is wrong with it is told at the end."""
        if not self._broken:
            try:
                self._reader.write(data)
            except InvalidInstance as e:
                self._broken = str(e)

    def finish(self) -> tuple[int, dict[str, Any]]:
        """The body is all here.

        Returns:
            HTTP status and Store Instances Response (PS3.18 section 10.5.3) in the DICOM JSON model:
            200 all stored; 202 some; 409 none; 503 none, for want of resources: try again; 400 no multipart message.
        """
        if not self._broken:
            try:
                self._reader.finish()
            except InvalidInstance as e:
                self._broken = str(e)
        self.discard()
        if self._broken:
            _logger.warning("request_malformed", reason=self._broken, calling=self._source)
        self._sync()
        failed = bool(self._refused or self._broken)
        _logger.info("request_stored", calling=self._source, stored=len(self._stored), refused=len(self._refused))
        if self._stored:
            return (ACCEPTED if failed else OK), self._answer()
        if self._broken or not self._refused:
            return BAD_REQUEST, self._answer()
        wants = {r.status == _OUT_OF_RESOURCES for r in self._refused}
        return (UNAVAILABLE if wants == {True} else CONFLICT), self._answer()

    def discard(self) -> None:
        """Forget the part that is under way; what was kept is kept."""
        if self._part is not None:
            self._part.file.discard()
            self._part = None

    def _open_part(self, headers: Mapping[str, str]) -> _StorePart:
        self._part = _StorePart(self, headers)
        return self._part

    def begin(self, syntax: str, sop_class: str, sop_instance: str) -> Arrival:
        """Begin to take the instance of a part."""
        return Arrival(self._keeper, syntax, sop_class, sop_instance, self._source, self._called)

    def close_part(self, part: _StorePart) -> None:
        """The part's file is all here: keep it, or keep why not."""
        self._part = None
        try:
            if not part.is_dicom:
                raise InvalidInstance("a part is not application/dicom")
            self._stored.append(part.file.finish())
        except ReceiveError as e:
            self._refuse(part.file, e.status, str(e))
        except Exception as e:  # noqa: BLE001  # the outermost border: the sender gets an answer, whatever happened
            # Of the exception only its kind and place: its text may hold header values.
            where = [f"{f.name}:{f.lineno}" for f in traceback.extract_tb(e.__traceback__)]
            _logger.error("instance_failed", error=type(e).__name__, where=where)
            self._refuse(part.file, _PROCESSING_FAILURE, "internal error")

    def _refuse(self, file: IncomingFile, status: int, reason: str) -> None:
        self._refused.append(_Refused(file.SOPClassUID, file.SOPInstanceUID, status))
        ids = {"SOPInstanceUID": file.SOPInstanceUID[:80], "calling": self._source}
        _logger.warning("instance_refused", reason=reason, status=f"0x{status:04X}", **ids)

    def _sync(self) -> None:
        """Where safety is by association, a request is one."""
        if self._intake.files.durability != "association" or not self._stored:
            return
        try:
            self._intake.files.sync([i.path for i in self._stored])
        except OutOfResources as e:
            _logger.error("request_not_safe", calling=self._source, reason=str(e))
            self._refused += [_Refused(i.SOPClassUID, i.SOPInstanceUID, e.status) for i in self._stored]
            self._stored = []

    def _answer(self) -> dict[str, Any]:
        said: dict[str, Any] = {"00081190": {"vr": "UR"}}  # the node gives nothing back
        named = [r for r in self._refused if r.SOPInstanceUID]
        unnamed = [r.status for r in self._refused if not r.SOPInstanceUID]
        unnamed += [InvalidInstance.status] * bool(self._broken)
        if self._stored:
            items = [{**_reference(i.SOPClassUID, i.SOPInstanceUID), "00081190": {"vr": "UR"}} for i in self._stored]
            said["00081199"] = {"vr": "SQ", "Value": items}
        if named:
            items = [{**_reference(r.SOPClassUID, r.SOPInstanceUID), "00081197": _us(r.status)} for r in named]
            said["00081198"] = {"vr": "SQ", "Value": items}
        if unnamed:
            said["0008119A"] = {"vr": "SQ", "Value": [{"00081197": _us(status)} for status in unnamed]}
        return said


class _StorePart:
    """One part of a Store request."""

    def __init__(self, request: StoreRequest, headers: Mapping[str, str]) -> None:
        self._request = request
        self.is_dicom = (
            headers.get("content-type", "application/dicom").partition(";")[0].strip() == "application/dicom"
        )
        self.file = IncomingFile(request.begin)

    def write(self, data: memoryview) -> None:
        if self.is_dicom:
            self.file.write(data)

    def close(self) -> None:
        self._request.close_part(self)


def _reference(sop_class: str, sop_instance: str) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": [sop_class]}, "00081155": {"vr": "UI", "Value": [sop_instance]}}


def _us(value: int) -> dict[str, Any]:
    return {"vr": "US", "Value": [value]}
