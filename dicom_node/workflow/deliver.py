"""Result objects on their way to a destination: attempts, confirmation, an end."""

from __future__ import annotations

from dbos import DBOS

from dicom_node import log
from dicom_node.deliver.confirm import confirm
from dicom_node.deliver.retry import next_wait
from dicom_node.deliver.send import send
from dicom_node.errors import PeerError
from dicom_node.model.states import DeliveryState, RunState
from dicom_node.workflow.services import Services, enqueue, services, the_run, timed

_logger = log.get("workflow")


@DBOS.workflow(name="deliver", max_recovery_attempts=20)
def deliver_workflow(run_id: str, to: str, turn: str, attempt: int, began: float) -> None:
    """One attempt to bring a run's objects to one destination, and the row of the next one if it is needed.

    Nothing waits inside: a destination that is down for days holds no thread and no place in the queue.
    """
    try:
        asked = confirm_step(run_id, to)  # what an earlier attempt sent may have arrived by now
        send_step(run_id, to, asked)
        confirm_step(run_id, to)
        follow_step(run_id, to, turn, attempt, began)
    except Exception as e:  # noqa: BLE001 - the stage's border: whatever goes wrong becomes a state with its reason
        _logger.error("delivery_broke", run=run_id, destination=to, error=type(e).__name__)
        abandon_step(run_id, to, f"{type(e).__name__}: {e}")


@DBOS.step(name="send")
def send_step(run_id: str, to: str, asked: bool) -> None:
    """Send what was not sent, and what was if the destination was ``asked`` for it and did not have it."""
    s = services()
    destination = s.settings.destination(to)
    open_states = (DeliveryState.PENDING, DeliveryState.SENT) if asked else (DeliveryState.PENDING,)
    waiting = {d.sop_uid for d in s.runs.deliveries(run_id, to) if d.state in open_states}
    objects = [o for o in s.runs.results(run_id) if o.SOPInstanceUID in waiting]
    if not objects:
        return
    try:
        with timed(run_id, f"deliver to {to}"):
            outcome = send(destination, s.settings.receive.ae_title, [o.path for o in objects])
    except PeerError as e:
        state = DeliveryState.PENDING if e.retryable else DeliveryState.FAILED
        for o in objects:
            s.runs.set_delivery(run_id, to, o.SOPInstanceUID, state, str(e))
        _logger.warning("delivery_failed", run=run_id, destination=to, reason=str(e), retry=e.retryable)
        return
    for o in objects:
        failure = outcome[o.SOPInstanceUID]
        state = DeliveryState.SENT
        if failure:
            state = DeliveryState.PENDING if failure.retryable else DeliveryState.FAILED
        s.runs.set_delivery(run_id, to, o.SOPInstanceUID, state, failure)
        _logger.info("result_sent", run=run_id, destination=to, SOPInstanceUID=o.SOPInstanceUID, state=state)


@DBOS.step(name="confirm")
def confirm_step(run_id: str, to: str) -> bool:
    """Ask the destination whether it has what was sent; False if it did not answer or need not be asked."""
    s = services()
    destination = s.settings.destination(to)
    sent = {d.sop_uid for d in s.runs.deliveries(run_id, to) if d.state == DeliveryState.SENT}
    if destination.confirm == "none" or not sent:
        return False
    objects = [o for o in s.runs.results(run_id) if o.SOPInstanceUID in sent]
    try:
        with timed(run_id, f"confirm at {to}"):
            there = confirm(destination, s.settings.receive.ae_title, objects, the_run(run_id).study_uid)
    except PeerError as e:
        _logger.warning("confirmation_failed", run=run_id, destination=to, reason=str(e))
        for uid in sent:
            s.runs.note_delivery(run_id, to, uid, f"sent, but not confirmed: {e}")
        return False
    for uid in there & sent:
        s.runs.set_delivery(run_id, to, uid, DeliveryState.CONFIRMED)
        _logger.info("result_confirmed", run=run_id, destination=to, SOPInstanceUID=uid)
    return True


@DBOS.step(name="follow")
def follow_step(run_id: str, to: str, turn: str, attempt: int, began: float) -> None:
    """Another attempt later if something is still on its way; an end if it has been for too long."""
    s = services()
    destination = s.settings.destination(to)
    done = {DeliveryState.CONFIRMED, DeliveryState.FAILED}
    if destination.confirm == "none":
        done.add(DeliveryState.SENT)
    waiting = [d for d in s.runs.deliveries(run_id, to) if d.state not in done]
    if waiting and s.index.clock() - began > destination.give_up_hours * 3600:
        for d in waiting:
            text = f"given up after {destination.give_up_hours:g} h: {d.error or 'sent, but never confirmed'}"
            s.runs.set_delivery(run_id, to, d.sop_uid, DeliveryState.FAILED, text)
        waiting = []
    if not waiting:
        settle(s, run_id)
        return
    wait = next_wait(attempt, destination.retry_first_seconds, destination.retry_longest_seconds)
    again = attempt + 1
    with s.engine.begin() as c:
        following = f"{run_id}/to/{to}/{turn}/{again}"
        enqueue(s, c, "deliver", following, run_id, to, turn, again, began, to=to, delay=wait)
    _logger.info("delivery_waits", run=run_id, destination=to, attempt=attempt, seconds=wait)


@DBOS.step(name="abandon")
def abandon_step(run_id: str, to: str, reason: str) -> None:
    """The delivery cannot go on (its destination is no longer configured, say): keep the reason for a person."""
    abandon(services(), run_id, to, reason)


def abandon(s: Services, run_id: str, to: str, reason: str) -> bool:
    """End what is still on its way to one destination; False if nothing was."""
    ended = False
    for d in s.runs.deliveries(run_id, to):
        if d.state == DeliveryState.PENDING or (d.state == DeliveryState.SENT and confirms(s, to)):
            s.runs.set_delivery(run_id, to, d.sop_uid, DeliveryState.FAILED, reason)
            ended = True
    if ended:
        settle(s, run_id)
    return ended


def settle(s: Services, run_id: str) -> None:
    """End the run if all its deliveries have ended."""
    run = s.runs.get(run_id)
    if run is None or run.state != RunState.DELIVERING:
        return
    failed = []
    for d in s.runs.deliveries(run_id):
        unconfirmed = d.state == DeliveryState.SENT and confirms(s, d.destination)
        if d.state == DeliveryState.PENDING or unconfirmed:
            return
        if d.state == DeliveryState.FAILED:
            failed.append(f"{d.destination}: {d.error}")
    ended = RunState.NOT_ANALYSED if run.record["outcome"] == "not_analysed" else RunState.DONE
    if failed:
        s.runs.set_state(run_id, RunState.FAILED, "not delivered to " + "; ".join(sorted(set(failed))))
    else:
        s.runs.set_state(run_id, ended, run.record.get("reason", ""))
    _logger.info("run_ended", run=run_id, state=RunState.FAILED if failed else ended)


def confirms(s: Services, to: str) -> bool:
    """Whether the destination is configured, and offers confirmation."""
    return any(d.name == to and d.confirm != "none" for d in s.settings.destinations)
