"""The node's state as plain data: what the command line prints and the demo's summary holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from dicom_node.complete.evidence import Evidence
from dicom_node.model.states import DeliveryState, StudyState
from dicom_node.store.commitments import Commitments
from dicom_node.store.counts import Completions
from dicom_node.store.pulls import PullRow
from dicom_node.store.runs import RunRow
from dicom_node.store.workitems import WorkitemRow
from dicom_node.workflow.services import Services


def status_view(s: Services) -> dict[str, Any]:
    """Whether the node can take more, and how much there is of what."""
    free, reserve = s.files.free_bytes(), s.files.reserve_bytes
    waiting = Commitments(s.engine).open()
    return {
        "disk": {
            "free_mb": free // 1_000_000,
            "reserve_mb": reserve // 1_000_000,
            "state": "below_reserve" if free < reserve else "sufficient",
        },
        "studies": s.index.states(),
        "runs": s.runs.states(),
        "commitments": [
            {
                "requestor": row["requestor"],
                "TransactionUID": row["transaction_uid"],
                "since": moment(row["created"]),
                "attempts": row["attempts"],
                "state": "given_up" if row["given_up"] else "waiting",
                "error": row["error"],
            }
            for row in waiting
        ],
    }


def study_views(s: Services) -> list[dict[str, Any]]:
    """All studies, the latest first: what each was whole by, or waits for, and why each series was wanted or not."""
    rows = s.index.studies()
    receiving = [row for row in rows if row.state == StudyState.RECEIVING]
    waits = {row.study_uid: v.words for row, v in Evidence(s.index, s.settings).verdicts(receiving) if not v.whole}
    completions = Completions(s.engine).all()
    instances, notes, routes = s.index.counts(), s.index.all_notes(), s.runs.all_routes()
    return [
        {
            "StudyInstanceUID": row.study_uid,
            "state": str(row.state),
            "revision": row.revision,
            "instances": instances.get(row.study_uid, 0),
            "first_arrival": moment(row.first_arrival),
            "last_arrival": moment(row.last_arrival),
            "completions": [
                {"revision": revision, "at": moment(at), "by": str(by), "evidence": words}
                for revision, at, by, words in completions.get(row.study_uid, [])
            ],
            "waits": waits.get(row.study_uid, ""),
            "reason": row.reason,
            "notes": notes.get(row.study_uid, []),
            "routes": routes.get(row.study_uid, []),
        }
        for row in rows
    ]


def pull_view(row: PullRow) -> dict[str, Any]:
    """One study that was asked for at another archive."""
    return {
        "source": row.source,
        "StudyInstanceUID": row.study_uid,
        "state": str(row.state),
        "reason": row.reason,
        "attempts": row.attempts,
        "asked": moment(row.asked),
        "ended": None if row.ended is None else moment(row.ended),
        "instances": row.instances,
    }


def workitem_view(row: WorkitemRow) -> dict[str, Any]:
    """One workitem that the node took from a worklist."""
    return {
        "worklist": row.worklist,
        "workitem": row.uid,
        "state": str(row.state),
        "reason": row.reason,
        "algorithm": row.algorithm,
        "StudyInstanceUID": row.study_uid,
        "source": row.source,
        "progress": max(row.progress, 0),
        "cancel_requested": row.cancel is not None,
        "claimed": moment(row.claimed),
        "ended": None if row.ended is None else moment(row.ended),
        "attempts": row.attempts,
        "error": row.error,
    }


def run_view(s: Services, run: RunRow) -> dict[str, Any]:
    """One run, with its measurements, steps and deliveries."""
    results = {o.SOPInstanceUID: o for o in s.runs.results(run.run_id)}
    return {
        "run": run.run_id,
        "StudyInstanceUID": run.study_uid,
        "SeriesInstanceUID": run.series_uid,
        "revision": run.revision,
        "algorithm": run.algorithm,
        "state": str(run.state),
        "reason": run.reason,
        "measurements": [{k: m.get(k) for k in ("name", "value", "unit", "flag", "group")} for m in run.measurements],
        "notes": run.record.get("notes", []),
        "steps": [{"step": n, "seconds": round(seconds, 3)} for n, _, seconds in s.runs.steps(run.run_id)],
        "deliveries": [
            {
                "destination": d.destination,
                "role": results[d.sop_uid].role if d.sop_uid in results else "",
                "SOPInstanceUID": d.sop_uid,
                "delivered": d.state in (DeliveryState.SENT, DeliveryState.CONFIRMED),
                "confirmed": d.state == DeliveryState.CONFIRMED,
                "attempts": d.attempts,
                "error": d.error,
            }
            for d in s.runs.deliveries(run.run_id)
        ],
        "created": moment(run.created),
        "ended": None if run.ended is None else moment(run.ended),
        "record": dict(run.record),
    }


def moment(seconds: float) -> str:
    """A time since the epoch as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
