"""A worklist in memory that behaves as PS3.4 Annex CC says; the UPS-RS server gives it a network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pydicom import Dataset
from pydicom.sequence import Sequence as ItemSequence

from dicom_node.model.instance import valid_uid
from dicom_node.testing.ups_rules import RETURNED, RuleBroken, check_changes, check_created, check_final, matches

UPS_PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"
WORKLIST_UID: Final = "1.2.840.10008.5.1.4.34.5"
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT = 1, 2, 3

MISSING = "The Transaction UID is missing."
INCORRECT = "The Transaction UID is incorrect."
INCONSISTENT = "The submitted request is inconsistent with the current state of the Workitem."
INCONSISTENT_STATE = "The submitted request is inconsistent with the state of the UPS Instance."


class Refusal(Exception):
    """What a request is answered with instead: an HTTP status, and the text of a Warning header."""

    def __init__(self, status: int, warning: str) -> None:
        self.status = status
        self.warning = warning
        super().__init__(f"{status} {warning}")


@dataclass
class _Item:
    ds: Dataset
    transaction_uid: str = ""
    subscribers: set[str] = field(default_factory=set)

    @property
    def state(self) -> str:
        return str(self.ds.ProcedureStepState)


Send = Callable[[str, dict[str, Any]], bool]
"""Gives an event (DICOM JSON) to an AE title; False if that one cannot be reached."""


class Worklist:
    """Workitems with their states, locks and subscribers. Thread-safe.

    Each method is one transaction of PS3.18 section 11, and raises :class:`Refusal` as that section says.
    """

    def __init__(self) -> None:
        self.send: Send = lambda _ae_title, _event: False
        self._items: dict[str, _Item] = {}
        self._global: set[str] = set()
        self._lock = threading.RLock()
        self._messages = 0

    def create(self, uid: str, ds: Dataset) -> None:
        """Create (11.4): 400 a dataset that does not comply, 409 the UID is taken."""
        with self._lock:
            if not valid_uid(uid):
                raise Refusal(400, "The Workitem UID is no UID.")
            if uid in self._items:
                raise Refusal(409, "The Target Workitem already exists.")
            _comply(check_created, ds)
            ds.SOPClassUID, ds.SOPInstanceUID = UPS_PUSH, uid
            ds.ScheduledProcedureStepModificationDateTime = _now()
            if "WorklistLabel" not in ds or not ds.WorklistLabel:
                ds.WorklistLabel = "default"
            self._items[uid] = _Item(ds, subscribers=set(self._global))
            self._report(uid, STATE_REPORT)

    def retrieve(self, uid: str) -> Dataset:
        """Retrieve (11.5), without the Transaction UID."""
        with self._lock:
            return _shown(self._item(uid).ds)

    def search(self, query: Mapping[str, str], include: tuple[str, ...] = ()) -> list[Dataset]:
        """Search (11.9): those that match, with the attributes of Return Key Types 1 and 2 and those named."""
        wanted = {*RETURNED, *include, *(path.partition(".")[0] for path in query)}
        with self._lock:
            try:
                found = [i.ds for i in self._items.values() if all(matches(i.ds, k, v) for k, v in query.items())]
            except RuleBroken as e:
                raise Refusal(400, str(e)) from e
            return [_only(ds, wanted) for ds in found]

    def update(self, uid: str, transaction_uid: str, ds: Dataset) -> None:
        """Update (11.6).

        Args:
            transaction_uid: of the query; the dataset of a claimed workitem has the same (PS3.4 section CC.2.6.2).
        """
        with self._lock:
            item = self._item(uid)
            if item.state in ("COMPLETED", "CANCELED"):
                raise Refusal(400, INCONSISTENT)
            given = str(ds.get("TransactionUID", "") or "")
            if item.state == "SCHEDULED" and (given or transaction_uid):
                raise Refusal(409, "The target URI did not reference a claimed Workitem.")
            if item.state == "IN PROGRESS":
                self._check_lock(item, given)
                self._check_lock(item, transaction_uid)
            if "TransactionUID" in ds:
                del ds.TransactionUID
            _comply(check_changes, ds)
            item.ds.update(ds)
            item.ds.ScheduledProcedureStepModificationDateTime = _now()
            if "ProcedureStepProgressInformationSequence" in ds:
                self._report(uid, PROGRESS_REPORT)

    def change_state(self, uid: str, ds: Dataset) -> str:
        """Change Workitem State (11.7), as PS3.4 Table CC.1.1-2 has it; returns a warning or nothing."""
        with self._lock:
            item = self._item(uid)
            state, given = str(ds.get("ProcedureStepState", "")), str(ds.get("TransactionUID", "") or "")
            if {e.keyword for e in ds} != {"ProcedureStepState", "TransactionUID"}:
                raise Refusal(400, MISSING if not given else "Only state and Transaction UID may be given.")
            if not valid_uid(given):
                raise Refusal(400, INCORRECT)
            if state not in ("IN PROGRESS", "COMPLETED", "CANCELED"):
                raise Refusal(400, INCONSISTENT_STATE)
            if item.state == "SCHEDULED":
                if state != "IN PROGRESS":
                    raise Refusal(409, INCONSISTENT_STATE)  # C310
                item.transaction_uid = given
            else:
                self._check_lock(item, given)
                if item.state == state and state != "IN PROGRESS":
                    return f"The UPS is already in the requested state of {state}."
                if item.state != "IN PROGRESS" or state == "IN PROGRESS":
                    raise Refusal(409, INCONSISTENT_STATE)  # C300, C302
                self._end(item, state)
            item.ds.ProcedureStepState = state
            self._report(uid, STATE_REPORT)
            return ""

    def request_cancel(self, uid: str, ds: Dataset, requester: str) -> str:
        """Request Cancellation (11.8); 409 also where no performer can be reached. Returns a warning or nothing."""
        with self._lock:
            item = self._item(uid)
            if item.state == "CANCELED":
                return "The UPS is already in the requested state of CANCELED."
            if item.state == "COMPLETED":
                raise Refusal(409, INCONSISTENT)  # C311
            if item.state == "SCHEDULED":
                self._cancel_unclaimed(uid, item, ds)
                return ""
            asked = Dataset()
            asked.update(ds)
            asked.RequestingAE = requester
            if not self._report(uid, CANCEL_REQUESTED, asked):
                raise Refusal(409, "The performer cannot be contacted.")  # C312
            return ""

    def cancel_itself(self, uid: str) -> None:
        """The origin server ends a workitem that is under way, as section CC.2.1.3 lets it."""
        with self._lock:
            item = self._item(uid)
            item.ds.ProcedureStepProgressInformationSequence = ItemSequence([_discontinued(Dataset())])
            item.ds.ProcedureStepState = "CANCELED"
            self._report(uid, STATE_REPORT)

    def subscribe(self, uid: str, ae_title: str) -> None:
        """Subscribe (11.10) to a workitem, or to the worklist by its well-known UID."""
        with self._lock:
            if uid != WORKLIST_UID:
                self._item(uid).subscribers.add(ae_title)
                self._report(uid, STATE_REPORT, only=ae_title)
                return
            self._global.add(ae_title)
            for item in self._items.values():
                item.subscribers.add(ae_title)

    def unsubscribe(self, uid: str, ae_title: str) -> None:
        """Unsubscribe (11.11); 404 if there is no such subscription."""
        with self._lock:
            subscribers = self._global if uid == WORKLIST_UID else self._item(uid).subscribers
            if ae_title not in subscribers:
                raise Refusal(404, "There is no such subscription.")
            subscribers.discard(ae_title)
            if uid == WORKLIST_UID:
                for item in self._items.values():
                    item.subscribers.discard(ae_title)

    def suspend(self, ae_title: str) -> None:
        """Suspend Global Subscription (11.12): what is subscribed to stays so."""
        with self._lock:
            if ae_title not in self._global:
                raise Refusal(404, "There is no such subscription.")
            self._global.discard(ae_title)

    def remove(self, uid: str) -> None:
        """Forget a workitem, as a server may some time after its end."""
        with self._lock:
            del self._items[uid]

    def _item(self, uid: str) -> _Item:
        if uid not in self._items:
            raise Refusal(404, "The Target Workitem was not found.")
        return self._items[uid]

    @staticmethod
    def _check_lock(item: _Item, transaction_uid: str) -> None:
        if not transaction_uid:
            raise Refusal(400, MISSING)
        if transaction_uid != item.transaction_uid:
            raise Refusal(400, INCORRECT)

    @staticmethod
    def _end(item: _Item, state: str) -> None:
        try:
            check_final(item.ds, state)
        except RuleBroken as e:
            raise Refusal(409, f"Final state requirements are not met: {e}") from e  # C304
        if state == "CANCELED":
            told = item.ds.ProcedureStepProgressInformationSequence[0]
            if not told.get("ProcedureStepCancellationDateTime"):
                told.ProcedureStepCancellationDateTime = _now()

    def _cancel_unclaimed(self, uid: str, item: _Item, ds: Dataset) -> None:
        """Through IN PROGRESS to CANCELED, with what the final state needs (section CC.2.2.3)."""
        for state in ("IN PROGRESS", "CANCELED"):
            if state == "CANCELED":
                item.ds.ProcedureStepProgressInformationSequence = ItemSequence([_discontinued(ds)])
            item.ds.ProcedureStepState = state
            self._report(uid, STATE_REPORT)

    def _report(self, uid: str, kind: int, more: Dataset | None = None, only: str = "") -> bool:
        """Send an event to the subscribers of a workitem; whether one of them could be reached."""
        item = self._items[uid]
        self._messages += 1
        content = Dataset()
        if kind == STATE_REPORT:
            content.ProcedureStepState = item.state
            content.InputReadinessState = item.ds.InputReadinessState
        elif kind == PROGRESS_REPORT:
            content.ProcedureStepProgressInformationSequence = item.ds.ProcedureStepProgressInformationSequence
        content.update(more or Dataset())
        event: dict[str, Any] = {
            "00000002": {"vr": "UI", "Value": [UPS_PUSH]},
            "00000110": {"vr": "US", "Value": [self._messages % 65536]},
            "00001000": {"vr": "UI", "Value": [uid]},
            "00001002": {"vr": "US", "Value": [kind]},
            **content.to_json_dict(),
        }
        return any([self.send(ae_title, event) for ae_title in sorted({only} if only else item.subscribers)])


def _comply(check: Callable[[Dataset], None], ds: Dataset) -> None:
    try:
        check(ds)
    except RuleBroken as e:
        raise Refusal(400, str(e)) from e


def _shown(ds: Dataset) -> Dataset:
    """A copy for others: the Transaction UID is a lock, which even an empty one does not leave (11.5.2)."""
    made = Dataset.from_json(ds.to_json())
    made.pop("TransactionUID", None)
    return made


def _only(ds: Dataset, keywords: set[str]) -> Dataset:
    """These attributes of a workitem, and never its lock."""
    made = Dataset()
    for element in ds:
        if element.keyword in keywords and element.keyword != "TransactionUID":
            made.add(element)
    return made


def _discontinued(asked: Dataset) -> Dataset:
    item = Dataset()
    item.ProcedureStepCancellationDateTime = _now()
    item.ReasonForCancellation = asked.get("ReasonForCancellation") or "canceled at the worklist"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "110513", "DCM"
    code.CodeMeaning = "Discontinued for unspecified reason"
    codes = asked.get("ProcedureStepDiscontinuationReasonCodeSequence") or ItemSequence([code])
    item.ProcedureStepDiscontinuationReasonCodeSequence = codes
    return item


def _now() -> str:
    return f"{datetime.now(UTC):%Y%m%d%H%M%S+0000}"
