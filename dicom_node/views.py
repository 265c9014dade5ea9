"""The node's state as plain data: what the command line prints and the demo's summary holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from dicom_node.model.states import DeliveryState
from dicom_node.store.index import StudyRow
from dicom_node.store.runs import RunRow
from dicom_node.workflow.services import Services


def study_view(s: Services, row: StudyRow) -> dict[str, Any]:
    """One study, with why each series was wanted or not."""
    return {
        "StudyInstanceUID": row.study_uid,
        "state": str(row.state),
        "revision": row.revision,
        "instances": s.index.count(row.study_uid),
        "first_arrival": moment(row.first_arrival),
        "last_arrival": moment(row.last_arrival),
        "reason": row.reason,
        "notes": s.index.notes(row.study_uid),
        "routes": [dict(r) for r in s.runs.routes(row.study_uid)],
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
