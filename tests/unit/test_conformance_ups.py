"""The conformance statement's section on UPS-RS says what a performer asks of a worklist, from the claim to the end."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs

from pydicom import Dataset

from dicom_node.model.workitem import CANCELED, COMPLETED, IN_PROGRESS
from dicom_node.peer import ups
from dicom_node.peer.http import HttpPeer
from dicom_node.settings import Worklist
from dicom_node.workflow.ups_work import scheduled_query
from tests.unit.test_conformance import rows, section
from tests.web_server import Answer, Request, web_server

UPS = "4.7 UPS-RS"
UID, TRANSACTION = "1.2.3", "2.25.1"


def answer(request: Request) -> Answer:
    item = {"00741000": {"vr": "CS", "Value": [IN_PROGRESS]}}
    return Answer(200, json.dumps([] if request.path.startswith("/workitems?") else [item]).encode())


def test_transactions_are_those_that_are_made() -> None:
    kinds = ({"value": "C", "scheme": "S", "algorithm": "a"},)
    with web_server(answer) as server:
        worklist = Worklist(name="ris", dicomweb_url=server.url, workitems=kinds)
        with HttpPeer(worklist, server.url) as web:
            ups.search_workitems(web, scheduled_query(worklist.workitems[0]))
            ups.retrieve_workitem(web, UID)
            ups.change_state(web, UID, IN_PROGRESS, TRANSACTION, "NODE")
            ups.update_workitem(web, UID, TRANSACTION, Dataset())
            ups.subscribe(web, UID, "NODE")
            url, _, _ = web.websocket("/subscribers/NODE")
    asked = [f"{r.method} {r.path}" for r in server.requests] + [
        f"GET {url.removeprefix(server.url.replace('http', 'ws'))}"
    ]

    written = [re.sub(rf"/{re.escape(UID)}\b", "/{workitem}", path).replace("NODE", "{aetitle}") for path in asked]
    written = [path.replace(TRANSACTION, "{transaction-uid}") for path in written]
    search, others = written[0], written[1:]
    assert [search.partition("?")[0], *others] == [row[1].strip("`") for row in rows(UPS)]
    keys = parse_qs(search.partition("?")[2]).keys() - {"limit", "offset"}
    assert keys == set(re.findall(r"`([A-Z][A-Za-z.]+)`", f"`{rows(UPS)[0][2]}`"))


def test_states_and_uids_are_those_that_are_used() -> None:
    text = section(UPS)
    assert set(re.findall(r"`([A-Z ]+)`", text)) == {IN_PROGRESS, COMPLETED, CANCELED}
    assert set(re.findall(r"`([\d.]{10,})`", text)) == {ups.WORKLIST_UID}
    (refusals,) = re.findall(r"Status ([\d, and]+) of a request", text)
    assert {int(n) for n in re.findall(r"\d+", refusals)} == set(ups.REFUSALS)
