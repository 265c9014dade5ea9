"""What keeps the node clean: old studies go, and work that the engine gave up gets an end that people see."""

from __future__ import annotations

import shutil
import time

from dicom_node import log
from dicom_node.model.states import RUN_ENDED, RunState, StudyState
from dicom_node.receive.intake import Intake
from dicom_node.store.index import StudyRow
from dicom_node.workflow.deliver import abandon
from dicom_node.workflow.services import Services
from dicom_node.workflow.study import refuse

_GIVEN_UP = ["ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]

_logger = log.get("workflow")


def remove_old(s: Services, intake: Intake) -> int:
    """Remove studies that are older than ``retention.keep_days`` and have nothing under way; returns how many."""
    limit = time.time() - s.settings.retention.keep_days * 86400
    return sum(remove_study(s, intake, row) for row in s.index.studies() if row.last_arrival <= limit)


def remove_study(s: Services, intake: Intake, row: StudyRow) -> bool:
    """Remove a study with all that belongs to it, unless something is under way or came since ``row`` was read.

    The engine's rows go first: were they left, the same study sent again would find its work done already.
    """
    runs = s.runs.all(row.study_uid)
    if row.state in (StudyState.RECEIVING, StudyState.COMPLETE) or any(r.state not in RUN_ENDED for r in runs):
        return False
    prefixes = [f"study:{row.study_uid}:", *(r.run_id for r in runs)]
    done = s.client.list_workflows(workflow_id_prefix=prefixes, load_input=False, load_output=False)
    s.client.delete_workflows([w.workflow_id for w in done])
    instances = [i for own in (False, True) for x in s.index.series(row.study_uid, own=own) for i in x.instances]
    if not s.index.remove_study(row):
        return False
    intake.discard(instances)
    for r in runs:
        shutil.rmtree(s.folder(r.run_id), ignore_errors=True)
    _logger.info("study_removed", StudyInstanceUID=row.study_uid)
    return True


def bury_dead(s: Services) -> int:
    """Give what the engine parked (it broke, or was recovered too often) an end with a reason; returns how many.

    Without this a run would stay ``running`` for ever, and nobody could repeat it.
    """
    buried = 0
    for w in s.client.list_workflows(status=_GIVEN_UP, load_input=False, load_output=False):
        reason = f"the engine gave up after {w.recovery_attempts} attempts ({w.status})"
        first, _, rest = w.workflow_id.partition("/")
        if first.startswith("study:"):
            _, uid, revision = first.split(":")
            ended = refuse(s, uid, int(revision), reason)
        elif rest.startswith("to/"):
            ended = abandon(s, first, rest.split("/")[1], reason)
        else:
            run = s.runs.get(first)
            ended = run is not None and run.state in (RunState.QUEUED, RunState.RUNNING)
            if ended:
                s.runs.set_state(first, RunState.FAILED, reason)
        if ended:
            buried += 1
            _logger.error("work_given_up", workflow=w.workflow_id, status=w.status)
    return buried
