"""The node as a performer of UPS-RS workitems (IHE AIW-I): found, claimed, worked on, ended.

Everything is in rows, the Transaction UID before the server hears of it: a node that is killed anywhere goes on at
its next start. What is asked of the server may be asked twice, and changes nothing the second time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from pydicom.uid import generate_uid

from dicom_node import log
from dicom_node.deliver.retry import next_wait
from dicom_node.errors import ConfigurationError, PeerError
from dicom_node.model.states import PullState, WorkitemState
from dicom_node.model.workitem import CANCELED, COMPLETED, IN_PROGRESS, SCHEDULED, UNSPECIFIED, Coded, Workitem
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.ups import (
    WORKLIST_UID,
    WorkitemRefused,
    change_state,
    retrieve_workitem,
    search_workitems,
    subscribe,
    update_workitem,
)
from dicom_node.peer.ups_datasets import completed, discontinued, progress
from dicom_node.route.rules import Rule
from dicom_node.run.registry import Algorithm
from dicom_node.settings import Settings, Worklist
from dicom_node.store.workitems import WorkitemRow, Workitems
from dicom_node.workflow.pull import pulls_of
from dicom_node.workflow.services import Services
from dicom_node.workflow.ups_events import Event, EventListener
from dicom_node.workflow.ups_work import (
    Over,
    Ready,
    UnderWay,
    input_state,
    is_settled,
    missing,
    needed_input,
    performed,
    scheduled_query,
    stop_runs,
    wanted_code,
    work_state,
)

_logger = log.get("workflow")


def draw_transaction_uid() -> str:
    """A Transaction UID: it is a lock, so it is drawn, not derived from what others know."""
    return str(generate_uid(prefix=None))


def workitems_of(s: Services) -> Workitems:
    """The rows of what the node has taken from worklists."""
    return Workitems(s.engine, s.index.clock)


def check_worklists(settings: Settings, algorithms: Mapping[str, Algorithm], rules: Sequence[Rule]) -> None:
    """See that what worklists name is there.

    Raises:
        ConfigurationError: an algorithm that is not installed, or that no rule runs, or whose results go to a place
            that no workitem can name.
    """
    for worklist in settings.worklists:
        where = f"worklists.{worklist.name}.workitems"
        for wanted in worklist.workitems:
            if wanted.algorithm not in algorithms:
                known = ", ".join(sorted(algorithms)) or "none is installed"
                raise ConfigurationError(f"{where}: there is no algorithm {wanted.algorithm!r}; accepted: {known}")
            run_by = [rule for rule in rules if rule.algorithm == wanted.algorithm]
            if not run_by:
                raise ConfigurationError(f"{where}: no rule of {settings.routes_file} runs {wanted.algorithm}")
            for name in sorted({name for rule in run_by for name in rule.deliver_to}):
                destination = settings.destination(name)
                if not destination.ae_title and not destination.dicomweb_url:
                    raise ConfigurationError(
                        f"destinations.{name}: set ae_title or dicomweb_url: the workitems of {worklist.name} "
                        "say by them where results are"
                    )


class Performer:
    """Works on one worklist. ``tick`` is called again and again, by one thread at a time."""

    def __init__(self, s: Services, worklist: Worklist, draw_uid: Callable[[], str] = draw_transaction_uid) -> None:
        self._s = s
        self._worklist = worklist
        self._draw_uid = draw_uid
        self._rows = workitems_of(s)
        self._web: HttpPeer | None = None
        self._looked = float("-inf")
        self._failures = 0
        self._looks_again = 0.0
        self._seen: dict[str, float] = {}
        self._woken = threading.Event()
        self._subscribed: set[str] = set()
        self._events: EventListener | None = None
        if worklist.subscribe:
            self._events = EventListener(worklist, self._ae_title, self._on_event, self._on_open)

    @property
    def _ae_title(self) -> str:
        return self._worklist.calling_ae_title or self._s.settings.receive.ae_title

    def start(self) -> None:
        """Begin to listen for events, where they are wanted."""
        if self._events is not None:
            self._events.start()

    def stop(self) -> None:
        """End what ``start`` began; workitems stay as they are."""
        if self._events is not None:
            self._events.stop()
        if self._web is not None:
            self._web.close()

    def tick(self) -> None:
        """Go on with each workitem that is due, and look for new ones when it is time, or an event says so."""
        now = self._s.index.clock()
        rows = [row for row in self._rows.open(self._worklist.name) if row.due <= now]
        looks = now >= self._looks_again if self._failures else now - self._looked >= self._worklist.every_seconds
        if self._woken.is_set():
            self._woken.clear()
            looks = True
        if (not rows and not looks) or (self._web is None and self._failures and not looks):
            return
        try:
            if self._web is None:
                self._web = HttpPeer(self._worklist, str(self._worklist.dicomweb_url))
            for row in reversed(rows):
                self._go_on(self._web, row)
            if looks:
                self._subscribe_to(self._web, WORKLIST_UID)
                self._looked = now
                self._look(self._web)
            self._failures = 0 if looks else self._failures
        except PeerError as e:
            self._failures += 1
            wait = self._wait(self._failures)
            self._looks_again = now + wait
            _logger.warning("worklist_not_asked", worklist=self._worklist.name, reason=str(e), seconds=wait)

    def _wait(self, attempt: int) -> float:
        return next_wait(attempt, self._worklist.retry_first_seconds, self._worklist.retry_longest_seconds)

    # Finding

    def _look(self, web: HttpPeer) -> None:
        """Claim what the node has an algorithm and a free place for, the most urgent first."""
        settings, worklist = self._s.settings, self._worklist
        free = worklist.at_once - len(self._rows.open(worklist.name))
        if free <= 0:
            return
        found: dict[str, Workitem] = {}
        for code in worklist.workitems:
            found |= {item.uid: item for item in search_workitems(web, scheduled_query(code))}
        for item in sorted(found.values(), key=lambda item: item.order):
            wanted = wanted_code(settings, worklist, item)
            if wanted is None or free <= 0 or self._lost_lately(item.uid):
                continue
            code_, algorithm = wanted
            if self._rows.take(worklist.name, item.uid, self._draw_uid(), algorithm, code_):
                free -= 1
                row = self._rows.get(worklist.name, item.uid)
                if row is not None:
                    self._go_on(web, row)

    def _lost_lately(self, uid: str) -> bool:
        """Whether a claim failed a short while ago, though the server still shows the workitem as scheduled."""
        row = self._rows.get(self._worklist.name, uid)
        wait = self._worklist.retry_longest_seconds
        return row is not None and (row.ended is None or self._s.index.clock() - row.ended < wait)

    # Working

    def _go_on(self, web: HttpPeer, row: WorkitemRow) -> None:
        """One step of one workitem. What fails on the way to the server is tried again later."""
        try:
            self._step(web, row)
            if row.attempts:
                self._rows.recovered(row)
        except WorkitemRefused as e:
            self._lose(row, str(e))
        except PeerError as e:
            hours = self._worklist.give_up_hours
            if sum(self._wait(n) for n in range(1, row.attempts + 1)) > hours * 3600:
                self._lose(row, f"given up after {hours:g} h: {e}")
                return
            self._postpone(row, str(e))
        except Exception as e:  # noqa: BLE001 - the outermost border: one workitem must not stop the others
            self._postpone(row, f"{type(e).__name__}: {e}")

    def _postpone(self, row: WorkitemRow, reason: str) -> None:
        wait = self._wait(row.attempts + 1)
        self._rows.postpone(row, wait, reason)
        _logger.warning("workitem_waits", **self._ids(row), reason=reason, seconds=wait)

    def _step(self, web: HttpPeer, row: WorkitemRow) -> None:
        if row.state == WorkitemState.CLAIMING:
            self._claim(web, row)
        elif row.state in (WorkitemState.COMPLETING, WorkitemState.CANCELING):
            self._end(web, row)
        elif self._is_ours(web, row):
            self._subscribe_to(web, row.uid)
            if row.cancel is not None:
                self._honour(row)
            elif row.state == WorkitemState.FETCHING:
                self._fetch(web, row)
            else:
                self._analyse(web, row)

    def _claim(self, web: HttpPeer, row: WorkitemRow) -> None:
        try:
            change_state(web, row.uid, IN_PROGRESS, row.transaction_uid, self._ae_title)
        except WorkitemRefused as refusal:
            # A claim of ours may have been granted, and its answer lost; then, and only then, this is allowed.
            try:
                update_workitem(web, row.uid, row.transaction_uid, progress(0, "claimed"))
            except WorkitemRefused:
                raise refusal from None
        item = retrieve_workitem(web, row.uid)
        if item.state != IN_PROGRESS:
            self._lose(row, f"it was claimed, and the worklist says that it is {item.state}")
            return
        needed = needed_input(self._s, self._worklist, item)
        _logger.info("workitem_claimed", **self._ids(row), algorithm=row.algorithm, source=needed.source)
        if needed.problem:
            self._rows.move(row, WorkitemState.CANCELING, reason=needed.problem, discontinued=[list(UNSPECIFIED)])
            return
        values = {"study_uid": needed.study_uid, "inputs": list(needed.instances), "source": needed.source}
        fetches = bool(needed.source) and missing(self._s, needed.study_uid, needed.instances) > 0
        with self._s.engine.begin() as c:
            if fetches:
                pulls_of(self._s).ask(c, needed.source, [(needed.study_uid, None)])
            self._rows.move(row, WorkitemState.FETCHING, c, **values)

    def _is_ours(self, web: HttpPeer, row: WorkitemRow) -> bool:
        """Ask now and then whether the workitem is still in progress: the server may end it by itself."""
        now = self._s.index.clock()
        if now - self._seen.setdefault(row.uid, now) < self._worklist.every_seconds:
            return True
        self._seen[row.uid] = now
        state = retrieve_workitem(web, row.uid).state
        if state == IN_PROGRESS:
            return True
        reason = f"the worklist says that it is {state}"
        stop_runs(self._s, row, reason)
        self._lose(row, reason)
        return False

    def _fetch(self, web: HttpPeer, row: WorkitemRow) -> None:
        found = input_state(self._s, row)
        if isinstance(found, Ready):
            self._rows.move(row, WorkitemState.ANALYSING)
        else:
            self._follow(web, row, found)

    def _analyse(self, web: HttpPeer, row: WorkitemRow) -> None:
        self._follow(web, row, work_state(self._s, row))

    def _follow(self, web: HttpPeer, row: WorkitemRow, found: UnderWay | Over) -> None:
        if isinstance(found, Over):
            state = WorkitemState.COMPLETING if found.done else WorkitemState.CANCELING
            codes = [] if found.done else [list(found.code)]
            self._rows.move(row, state, reason=found.reason, discontinued=codes)
        elif found.percent != row.progress:
            update_workitem(web, row.uid, row.transaction_uid, progress(found.percent, found.text))
            self._rows.told(row, found.percent)

    def _honour(self, row: WorkitemRow) -> None:
        """Cancel, as was asked: nothing more is fetched or run, and what has no results yet never has any.

        A fetch that is under way, and a study that is about to be routed, are waited for: only then can it be known
        that no run follows.
        """
        assert row.cancel is not None
        asked = row.cancel
        reason = f"canceled on request{': ' if asked.reason else ''}{asked.reason}"
        if row.state == WorkitemState.FETCHING and isinstance(input_state(self._s, row), UnderWay):
            pulls = pulls_of(self._s)
            pull = pulls.get(row.source, row.study_uid)
            if pull is not None and pull.state == PullState.PENDING and pull.attempts:
                pulls.settle(pull, PullState.FAILED, f"workitem {row.uid} was canceled")
            return
        if not is_settled(self._s, row.study_uid):
            return
        stop_runs(self._s, row, reason)
        codes: tuple[Coded, ...] = asked.codes or (UNSPECIFIED,)
        self._rows.move(row, WorkitemState.CANCELING, reason=reason, discontinued=[list(code) for code in codes])

    def _end(self, web: HttpPeer, row: WorkitemRow) -> None:
        """Tell the server of the end: what the final state needs, then the state."""
        done = performed(self._s, self._worklist, row)
        if row.state == WorkitemState.COMPLETING:
            ended, goal, changes = WorkitemState.COMPLETED, COMPLETED, completed(done)
        else:
            ended, goal = WorkitemState.CANCELED, CANCELED
            changes = discontinued(done, row.reason, row.discontinued)
        try:
            update_workitem(web, row.uid, row.transaction_uid, changes)
            change_state(web, row.uid, goal, row.transaction_uid, self._ae_title)
        except WorkitemRefused as refusal:
            # The server may have been told already, and its answer have been lost.
            if refusal.status in (404, 410) or retrieve_workitem(web, row.uid).state != goal:
                raise
        self._rows.move(row, ended)
        self._forget(row)
        _logger.info(
            "workitem_ended", **self._ids(row), state=ended, outputs=sum(len(o.instances) for o in done.outputs)
        )

    def _lose(self, row: WorkitemRow, reason: str) -> None:
        self._rows.move(row, WorkitemState.LOST, reason=reason)
        self._forget(row)
        _logger.warning("workitem_lost", **self._ids(row), reason=reason)

    def _forget(self, row: WorkitemRow) -> None:
        self._seen.pop(row.uid, None)
        self._subscribed.discard(row.uid)

    def _ids(self, row: WorkitemRow) -> dict[str, str]:
        return {"worklist": row.worklist, "workitem": row.uid, "StudyInstanceUID": row.study_uid}

    # Events

    def _subscribe_to(self, web: HttpPeer, uid: str) -> None:
        """Ask for the events of a workitem, or the worklist, once for each connection."""
        if self._events is None or not self._events.is_open or uid in self._subscribed:
            return
        try:
            subscribe(web, uid, self._ae_title)
        except WorkitemRefused as e:
            _logger.warning("worklist_gives_no_events", worklist=self._worklist.name, reason=str(e))
        self._subscribed.add(uid)

    def _on_open(self) -> None:
        """The connection is there, perhaps again: what happened meanwhile is asked for."""
        self._subscribed.clear()
        self._woken.set()

    def _on_event(self, event: Event) -> None:
        if event.cancel is not None and self._rows.ask_cancel(self._worklist.name, event.uid, event.cancel):
            ids = {"worklist": self._worklist.name, "workitem": event.uid}
            _logger.info("workitem_cancel_requested", **ids, requester=event.cancel.requester)
        if event.state == SCHEDULED:
            self._woken.set()
