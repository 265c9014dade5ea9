"""The test origin server speaks UPS-RS as PS3.18 section 11 and PS3.4 Annex CC say; so does the client, with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from pydicom import Dataset
from pydicom.sequence import Sequence as ItemSequence
from websockets.sync.client import connect

from dicom_node.errors import PeerError
from dicom_node.peer import qido
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.ups import (
    WorkitemRefused,
    change_state,
    retrieve_workitem,
    search_workitems,
    subscribe,
    update_workitem,
)
from dicom_node.peer.ups_datasets import progress
from dicom_node.settings import Worklist
from dicom_node.testing.ups_server import UpsServer
from tests.ups_site import CODE, code, images, input_series, until, workitem

UID, OURS, OTHERS = "1.2.3.9", "2.25.1", "2.25.2"
JSON = {"Content-Type": "application/dicom+json", "Accept": "application/dicom+json"}


@pytest.fixture
def server() -> Iterator[UpsServer]:
    with UpsServer() as server:
        yield server


@pytest.fixture
def web(server: UpsServer) -> Iterator[HttpPeer]:
    with client(server) as web:
        yield web


def client(server: UpsServer, **more: Any) -> HttpPeer:
    kinds = ({"value": CODE[0], "scheme": CODE[1], "algorithm": "a"},)
    values = {"name": "ris", "dicomweb_url": server.url, "workitems": kinds, "timeout_seconds": 60, **more}
    return HttpPeer(Worklist(**values), server.url)


def post(server: UpsServer, path: str, ds: Dataset | None = None, method: str = "POST") -> requests.Response:
    body = None if ds is None else json.dumps([ds.to_json_dict()])
    return requests.request(method, f"{server.url}{path}", data=body, headers=JSON, timeout=60)


def finals() -> Dataset:
    """What COMPLETED needs, without any output."""
    item = Dataset()
    item.PerformedStationNameCodeSequence = ItemSequence([code("N", "99X", "node")])
    item.PerformedWorkitemCodeSequence = ItemSequence([code(*CODE)])
    item.PerformedProcedureStepStartDateTime = item.PerformedProcedureStepEndDateTime = "20260102030405+0000"
    item.OutputInformationSequence = ItemSequence([])
    ds = Dataset()
    ds.UnifiedProcedureStepPerformedProcedureSequence = ItemSequence([item])
    return ds


def discontinuation() -> Dataset:
    item = Dataset()
    item.ProcedureStepDiscontinuationReasonCodeSequence = ItemSequence([code("110513", "DCM", "unspecified")])
    ds = Dataset()
    ds.ProcedureStepProgressInformationSequence = ItemSequence([item])
    return ds


def test_a_workitem_is_created_once(server: UpsServer) -> None:
    created = post(server, f"/workitems?{UID}", workitem(input_series(images())))
    assert (created.status_code, created.headers["Location"]) == (201, f"{server.url}/workitems/{UID}")
    assert post(server, f"/workitems?{UID}", workitem()).status_code == 409


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ProcedureStepState": "IN PROGRESS"}, "C309"),
        ({"ProcedureStepLabel": ""}, "ProcedureStepLabel"),
        ({"TransactionUID": "1.2.3"}, "TransactionUID"),
        ({"SOPClassUID": "1.2.3"}, "SOPClassUID is not allowed"),
        ({"ScheduledProcedureStepPriority": "URGENT"}, "HIGH, MEDIUM, LOW"),
    ],
)
def test_a_workitem_that_does_not_comply_is_not_created(server: UpsServer, more: Any, words: str) -> None:
    refused = post(server, f"/workitems?{UID}", workitem(**more))
    assert refused.status_code == 400
    assert words in refused.headers["Warning"]


def test_an_input_that_says_not_where_it_is_is_refused(server: UpsServer) -> None:
    series = input_series(images())
    del series.DICOMRetrievalSequence
    assert "no retrieval sequence" in post(server, f"/workitems?{UID}", workitem(series)).headers["Warning"]


def test_other_payloads_are_refused(server: UpsServer) -> None:
    url = f"{server.url}/workitems?{UID}"
    assert requests.post(url, data="<xml/>", headers={"Content-Type": "text/xml"}, timeout=60).status_code == 415
    for body in ("{", "{}", "[]", '["x"]'):
        assert requests.post(url, data=body, headers=JSON, timeout=60).status_code == 400, body
    assert requests.get(f"{server.url}/workitems", headers={"Accept": "text/xml"}, timeout=60).status_code == 406


def test_a_search_finds_what_matches(server: UpsServer, web: HttpPeer) -> None:
    server.worklist.create(UID, workitem(input_series(images())))
    server.worklist.create("1.2.3.10", workitem(codes=[("OTHER", "99X", "other")]))
    server.worklist.create("1.2.3.11", workitem(InputReadinessState="INCOMPLETE"))
    query = {
        "ProcedureStepState": "SCHEDULED",
        "InputReadinessState": "READY",
        "ScheduledWorkitemCodeSequence.CodeValue": CODE[0],
    }
    (found,) = search_workitems(web, query)
    assert (found.uid, found.state, found.codes, found.priority) == (UID, "SCHEDULED", (CODE,), "MEDIUM")
    assert found.inputs[0].instances == tuple(i.SOPInstanceUID for i in images())
    assert found.inputs[0].ae_titles == ("ARCHIVE",)
    assert search_workitems(web, {"ProcedureStepState": "COMPLETED"}) == []
    with pytest.raises(PeerError, match="HTTP 400"):
        search_workitems(web, {"NoSuchAttribute": "x"})


def test_a_long_worklist_comes_in_pages(server: UpsServer, web: HttpPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qido, "_PAGE", 5)
    for number in range(11):
        server.worklist.create(f"1.2.4.{number + 1}", workitem())
    found = search_workitems(web, {"ProcedureStepState": "SCHEDULED"})
    assert sorted(int(item.uid.rpartition(".")[2]) for item in found) == list(range(1, 12))
    assert len(server.asked) == 3


def test_a_url_without_a_worklist_is_an_error(server: UpsServer) -> None:
    with client(server) as web:
        web.base += "/elsewhere"
        with pytest.raises(PeerError, match="refused GET /workitems with HTTP 404"):
            search_workitems(web, {"ProcedureStepState": "SCHEDULED"})


def test_the_states_follow_one_another(server: UpsServer, web: HttpPeer) -> None:
    server.worklist.create(UID, workitem())
    for state in ("COMPLETED", "CANCELED"):
        with pytest.raises(WorkitemRefused, match="HTTP 409"):
            change_state(web, UID, state, OURS, "NODE")
    change_state(web, UID, "IN PROGRESS", OURS, "NODE")
    with pytest.raises(WorkitemRefused, match=r"HTTP 409 \(The submitted request is inconsistent"):
        change_state(web, UID, "IN PROGRESS", OURS, "NODE")
    with pytest.raises(WorkitemRefused, match=r"HTTP 400 \(The Transaction UID is incorrect"):
        change_state(web, UID, "IN PROGRESS", OTHERS, "NODE")
    with pytest.raises(WorkitemRefused, match="HTTP 409"):
        change_state(web, UID, "COMPLETED", OURS, "NODE")  # final state requirements
    update_workitem(web, UID, OURS, finals())
    with pytest.raises(WorkitemRefused, match="HTTP 400"):
        change_state(web, UID, "COMPLETED", OTHERS, "NODE")
    change_state(web, UID, "COMPLETED", OURS, "NODE")
    change_state(web, UID, "COMPLETED", OURS, "NODE")  # again: a warning only
    with pytest.raises(WorkitemRefused, match="HTTP 409"):
        change_state(web, UID, "CANCELED", OURS, "NODE")
    with pytest.raises(WorkitemRefused, match="HTTP 400"):
        update_workitem(web, UID, OURS, progress(10, "more"))
    assert retrieve_workitem(web, UID).state == "COMPLETED"


def test_a_change_without_transaction_uid_is_refused(server: UpsServer) -> None:
    server.worklist.create(UID, workitem())
    change = Dataset()
    change.ProcedureStepState = "IN PROGRESS"
    refused = post(server, f"/workitems/{UID}/state", change, "PUT")
    assert (refused.status_code, "Transaction UID is missing" in refused.headers["Warning"]) == (400, True)
    change.TransactionUID = OURS
    assert post(server, f"/workitems/{UID}/state", change, "PUT").status_code == 200
    refused = post(server, f"/workitems/{UID}", progress(10, "x"))
    assert (refused.status_code, "Transaction UID is missing" in refused.headers["Warning"]) == (400, True)


def test_cancelling_needs_a_coded_reason_and_gets_a_time(server: UpsServer, web: HttpPeer) -> None:
    server.worklist.create(UID, workitem())
    change_state(web, UID, "IN PROGRESS", OURS, "NODE")
    with pytest.raises(WorkitemRefused, match="HTTP 409"):
        change_state(web, UID, "CANCELED", OURS, "NODE")
    update_workitem(web, UID, OURS, discontinuation())
    change_state(web, UID, "CANCELED", OURS, "NODE")
    told = server.worklist.retrieve(UID).ProcedureStepProgressInformationSequence[0]
    assert told.ProcedureStepCancellationDateTime


def test_only_the_owner_updates_and_nobody_sees_the_lock(server: UpsServer, web: HttpPeer) -> None:
    server.worklist.create(UID, workitem())
    with pytest.raises(WorkitemRefused, match="HTTP 409"):
        update_workitem(web, UID, OURS, progress(10, "x"))
    change_state(web, UID, "IN PROGRESS", OURS, "NODE")
    update_workitem(web, UID, OURS, progress(10, "Größe"))
    with pytest.raises(WorkitemRefused, match="HTTP 400"):
        update_workitem(web, UID, OTHERS, progress(20, "x"))
    seen = server.worklist.retrieve(UID)
    assert "TransactionUID" not in seen
    (told,) = seen.ProcedureStepProgressInformationSequence
    assert (told.ProcedureStepProgress, told.ProcedureStepProgressDescription) == (10, "Größe")
    state = Dataset()
    state.ProcedureStepState = "COMPLETED"
    with pytest.raises(WorkitemRefused, match="HTTP 400"):
        update_workitem(web, UID, OURS, state)


def test_a_workitem_that_is_not_there(server: UpsServer, web: HttpPeer) -> None:
    for ask in (
        lambda: retrieve_workitem(web, UID),
        lambda: change_state(web, UID, "IN PROGRESS", OURS, "NODE"),
        lambda: update_workitem(web, UID, OURS, progress(1, "x")),
        lambda: subscribe(web, UID, "NODE"),
    ):
        with pytest.raises(WorkitemRefused) as caught:
            ask()
        assert caught.value.status == 404


def test_a_request_to_cancel(server: UpsServer, web: HttpPeer) -> None:
    server.worklist.create(UID, workitem())
    assert post(server, f"/workitems/{UID}/cancelrequest").status_code == 202  # nobody has claimed it
    assert server.worklist.retrieve(UID).ProcedureStepState == "CANCELED"
    assert "already in the requested state" in post(server, f"/workitems/{UID}/cancelrequest").headers["Warning"]

    server.worklist.create("1.2.3.10", workitem())
    change_state(web, "1.2.3.10", "IN PROGRESS", OURS, "NODE")
    assert post(server, "/workitems/1.2.3.10/cancelrequest").status_code == 409  # no performer can be reached
    with connect(f"ws{server.url.removeprefix('http')}/subscribers/NODE") as channel:
        until(lambda: server.listeners == {"NODE"})
        subscribe(web, "1.2.3.10", "NODE")
        reason = Dataset()
        reason.ReasonForCancellation = "wrong patient"
        assert post(server, "/workitems/1.2.3.10/cancelrequest", reason).status_code == 202
        events = [json.loads(channel.recv(timeout=60)) for _ in range(2)]
    assert [e["00001002"]["Value"] for e in events] == [[1], [2]]
    assert events[1]["00741238"]["Value"] == ["wrong patient"]
    assert server.worklist.retrieve("1.2.3.10").ProcedureStepState == "IN PROGRESS"  # that is the performer's to do


def test_subscriptions_to_the_worklist(server: UpsServer) -> None:
    where = "/workitems/1.2.840.10008.5.1.4.34.5/subscribers/NODE"
    created = post(server, where)
    assert (created.status_code, created.headers["Content-Location"][:5]) == (201, "ws://")
    with connect(created.headers["Content-Location"]) as channel:
        until(lambda: server.listeners)
        server.worklist.create(UID, workitem())
        event = json.loads(channel.recv(timeout=60))
        assert (event["00001000"]["Value"], event["00741000"]["Value"]) == ([UID], ["SCHEDULED"])
        assert post(server, f"{where}/suspend").status_code == 200
        server.worklist.create("1.2.3.10", workitem())
        server.worklist.change_state(UID, change("IN PROGRESS", OURS))
        assert json.loads(channel.recv(timeout=60))["00001000"]["Value"] == [UID]  # nothing of the new one
    assert post(server, where, method="DELETE").status_code == 404


def change(state: str, transaction_uid: str) -> Dataset:
    ds = Dataset()
    ds.ProcedureStepState, ds.TransactionUID = state, transaction_uid
    return ds


def test_credentials(server: UpsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.authorization = "Basic bm9kZTpzZWNyZXQ="
    monkeypatch.setenv("RIS_USER", "node")
    monkeypatch.setenv("RIS_PASSWORD", "secret")
    with client(server) as web, pytest.raises(PeerError, match="HTTP 401") as caught:
        search_workitems(web, {"ProcedureStepState": "SCHEDULED"})
    assert not isinstance(caught.value, WorkitemRefused)
    with client(server, username_env="RIS_USER", password_env="RIS_PASSWORD") as web:
        assert search_workitems(web, {"ProcedureStepState": "SCHEDULED"}) == []
        url, headers, tls = web.websocket("/subscribers/NODE")
    assert tls is None
    with connect(url, additional_headers=headers):
        until(lambda: server.listeners == {"NODE"})


def test_a_server_like_dcm4chee(monkeypatch: pytest.MonkeyPatch) -> None:
    with UpsServer(like_dcm4chee=True) as server, client(server) as web:
        server.worklist.create(UID, workitem())
        change_state(web, UID, "IN PROGRESS", OURS, "NODE")
        assert [path for method, path, _ in server.asked if method == "PUT"] == [f"/workitems/{UID}/state/NODE"]
        said = subscribe(web, UID, "NODE")
        assert said == f"ws://127.0.0.1:{server.port}/ws/subscribers/NODE"
        url, _, _ = web.websocket("/subscribers/NODE", said)
        with connect(url):
            until(lambda: server.listeners == {"NODE"})


def test_events_come_from_no_other_host(server: UpsServer, web: HttpPeer) -> None:
    own = f"ws://127.0.0.1:{server.port}/dicom-web/subscribers/NODE"
    for said in ("ws://elsewhere.example/subscribers/NODE", "wss://127.0.0.1/x", "http://127.0.0.1/x", "", "ws://"):
        assert web.websocket("/subscribers/NODE", said)[0] == own
    web.base = "https://127.0.0.1"
    assert web.websocket("/s", "ws://127.0.0.1/s")[0] == "wss://127.0.0.1/s"
