"""C-STORE as SCP (PS3.4 Annex B): what becomes of each instance, and of what an association left unsynced."""

from __future__ import annotations

import time
import traceback
import weakref
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom import Dataset

from dicom_node import log
from dicom_node.errors import InvalidInstance, OutOfResources, ReceiveError
from dicom_node.receive.arrival import Arrival
from dicom_node.receive.fast_store import StoreRequest
from dicom_node.receive.intake import Intake

SUCCESS: Final = 0x0000
CANNOT_UNDERSTAND: Final = 0xC000

_LONGEST_COMMENT = 64

_logger = log.get("receive")


@dataclass
class _Tally:
    """What came over one association."""

    calling: str
    called: str
    address: str
    opened: float
    unsynced: list[str] = field(default_factory=list)
    """Paths that are acknowledged, but safe only after a sync."""
    last: str = ""
    """Path of the last that was stored."""
    stored: int = 0
    refused: int = 0
    bytes: int = 0
    ended: bool = False


class StoreScp:
    """Takes requests from pynetdicom and from the node's own reader alike; ``Intake`` keeps what came."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._tallies: weakref.WeakKeyDictionary[Any, _Tally] = weakref.WeakKeyDictionary()

    def opened(self, association: Any, calling: str, called: str, address: str) -> None:
        """An association was accepted."""
        self._tallies[association] = _Tally(calling, called, address, time.monotonic())

    def addresses(self) -> list[str]:
        """Of the peers whose associations have not ended, one each."""
        return [tally.address for tally in list(self._tallies.values()) if not tally.ended]

    def settle(self, association: Any) -> bool:
        """Make safe what came, before the release is answered; False if that fails."""
        tally = self._tallies.get(association)
        if tally is None:
            return True
        self._intake.rows.hurry()
        return self._sync(tally)

    def ended(self, event: Any, end: str) -> None:
        """An association was released or aborted."""
        tally = self._tallies.get(event.assoc)
        if tally is None or tally.ended:
            return
        # It stays until the association is gone: an instance may still be on its way in.
        tally.ended = True
        self._sync(tally)
        _logger.info(
            "association_closed",
            end=end,
            calling=tally.calling,
            called=tally.called,
            address=tally.address,
            stored=tally.stored,
            refused=tally.refused,
            megabytes=round(tally.bytes / 1e6, 3),
            seconds=round(time.monotonic() - tally.opened, 3),
        )

    def on_store(self, event: Any) -> Dataset:
        """Keep one instance that pynetdicom read."""
        request = event.request
        asked = StoreRequest(request.MessageID, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        arrival = self.begin(event.assoc, asked, str(event.context.transfer_syntax))
        # A view of pynetdicom's own memory, not another copy.
        dataset = None if request.DataSet is None else request.DataSet.getbuffer()
        answer = Dataset()
        answer.Status, comment = self.finish(event.assoc, asked, arrival, dataset)
        if comment:
            answer.ErrorComment = comment
        return answer

    def begin(self, association: Any, request: StoreRequest, transfer_syntax: str) -> Arrival:
        """A request came."""
        tally = self._tallies[association]
        return self._intake.begin(
            TransferSyntaxUID=transfer_syntax,
            SOPClassUID=request.SOPClassUID,
            SOPInstanceUID=request.SOPInstanceUID,
            source=tally.calling,
            called=tally.called,
        )

    def prepare(self, association: Any) -> None:
        """The next image will most likely lie beside the last one."""
        if last := self._tallies[association].last:
            self._intake.files.prepare(last)

    def relax(self) -> None:
        """No request came."""
        self._intake.files.relax()

    def finish(
        self, association: Any, request: StoreRequest, arrival: Arrival, last: memoryview | None
    ) -> tuple[int, str]:
        """Keep the instance that came with a request.

        Args:
            last: the end of the dataset; None if the request came without one.

        Returns:
            Status, and an Error Comment for the sender unless it is Success (PS3.4 section B.2.3):
            0x0000 Success: as safe as ``receive.durability`` says, or there already with the same content.
            0xA700 Out of Resources: disk full, below the reserve or failing; the sender may try again.
            0xC000 Cannot Understand: no DICOM, truncated, a UID that is none, command and dataset differ,
            or an error of the node's own, which is logged.
            0xC001 Cannot Understand: the SOP Instance UID is here with other content, which is kept.
        """
        tally = self._tallies[association]
        try:
            if last is None:
                raise InvalidInstance("the command came without a dataset")
            instance = arrival.finish(last)
        except ReceiveError as e:
            return _refusal(tally, request, e.status, str(e))
        except Exception as e:  # noqa: BLE001  # the outermost border: the sender gets an answer, whatever happened
            # Of the exception only its kind and place: its text may hold header values.
            where = [f"{f.name}:{f.lineno}" for f in traceback.extract_tb(e.__traceback__)]
            _logger.error("instance_failed", error=type(e).__name__, where=where)
            return _refusal(tally, request, CANNOT_UNDERSTAND, "internal error, see the node's log")
        if self._intake.files.durability == "association":
            tally.unsynced.append(instance.path)
            if tally.ended:
                self._sync(tally)
        tally.stored += 1
        tally.bytes += instance.size
        tally.last = instance.path
        return SUCCESS, ""

    def _sync(self, tally: _Tally) -> bool:
        """Make safe what is not yet; False, and no second attempt, if the disk fails."""
        paths, tally.unsynced = tally.unsynced, []
        try:
            self._intake.files.sync(paths)
        except OutOfResources as e:
            _logger.error("association_not_safe", calling=tally.calling, address=tally.address, reason=str(e))
            return False
        return True


def _refusal(tally: _Tally, request: StoreRequest, status: int, reason: str) -> tuple[int, str]:
    tally.refused += 1
    _logger.warning(
        "instance_refused",
        reason=reason,
        status=f"0x{status:04X}",
        SOPInstanceUID=request.SOPInstanceUID[:80],
        SOPClassUID=request.SOPClassUID[:80],
        calling=tally.calling,
    )
    # Error Comment is an LO: no backslash, at most 64 characters (PS3.7 section C.4). The sender knows the UID.
    comment = (
        reason.removeprefix(f"{request.SOPInstanceUID} ").replace("\\", "/").encode("ascii", "replace").decode("ascii")
    )
    return status, comment[:_LONGEST_COMMENT]
