"""Workitems as datasets, and events: what is written is read back, and what is strange does no harm."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydicom import Dataset

from dicom_node.errors import PeerError
from dicom_node.model.workitem import CancelRequest, Coded
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.ups_datasets import (
    OutputSeries,
    Performed,
    completed,
    discontinued,
    progress,
    read_codes,
    read_workitem,
)
from dicom_node.settings import Worklist
from dicom_node.testing.ups_rules import RuleBroken, check_changes, check_final
from dicom_node.workflow.ups_events import Event, read_event
from tests.ups_site import CODE, code, images, input_series, workitem

STATION = Coded("AI1", "99SITE", "AI node")
OUTPUTS = (
    OutputSeries("1.2.3", "1.2.3.4", (("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.4.5"),), "PACS"),
    OutputSeries("1.2.3", "1.2.3.5", (("1.2.840.10008.5.1.4.1.1.66.4", "1.2.3.5.6"),), url="https://pacs/dw/x"),
)
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def performed(*outputs: OutputSeries, comment: str = "") -> Performed:
    return Performed(STATION, Coded(*CODE), WHEN, WHEN, outputs, comment)


def whole(changes: Dataset) -> Dataset:
    """A workitem after the changes, as they come over the wire."""
    ds = workitem(input_series(images()))
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.34.6.1", "1.2.3.9"
    ds.update(Dataset.from_json(changes.to_json()))
    return ds


def test_what_is_written_meets_the_final_state_requirements() -> None:
    for changes, state in (
        (completed(performed(*OUTPUTS)), "COMPLETED"),
        (completed(performed(comment="ä" * 2000)), "COMPLETED"),
        (discontinued(performed(), "because " * 2000, [Coded("110513", "DCM", "unspecified")]), "CANCELED"),
        (discontinued(performed(*OUTPUTS), "", [Coded("a code of over sixteen", "99X", "long")]), "CANCELED"),
    ):
        check_changes(Dataset.from_json(changes.to_json()))
        check_final(whole(changes), state)
    for changes in (progress(10, "x"), completed(performed())):
        with pytest.raises(RuleBroken):
            check_final(whole(changes), "CANCELED")
    with pytest.raises(RuleBroken):
        check_final(whole(progress(10, "x")), "COMPLETED")


def test_references_are_whole() -> None:
    (done,) = completed(performed(*OUTPUTS)).UnifiedProcedureStepPerformedProcedureSequence
    first, second = done.OutputInformationSequence
    assert first.DICOMRetrievalSequence[0].RetrieveAETitle == "PACS"
    assert "WADORSRetrievalSequence" not in first
    assert second.WADORSRetrievalSequence[0].RetrieveURL == "https://pacs/dw/x"
    assert done.PerformedProcedureStepStartDateTime == "20260102030405+0000"


def test_a_workitem_is_read() -> None:
    ds = workitem(input_series(images(), url="https://pacs/dw/studies/1.2.3"), ScheduledProcedureStepPriority="HIGH")
    ds.SOPInstanceUID = "1.2.3.9"
    item = read_workitem(ds)
    assert (item.uid, item.state, item.readiness, item.codes) == ("1.2.3.9", "SCHEDULED", "READY", (Coded(*CODE),))
    (series,) = item.inputs
    assert (series.study_uid, len(series.instances)) == ("1.2.3", 3)
    assert series.urls == ("https://pacs/dw/studies/1.2.3",)
    low = read_workitem(workitem(ScheduledProcedureStepPriority="LOW"))
    assert sorted([low, item], key=lambda i: i.order)[0] is item


def test_what_a_workitem_lacks_is_empty() -> None:
    empty = read_workitem(Dataset())
    assert (empty.uid, empty.codes, empty.inputs, empty.study_uid) == ("", (), (), "")
    strange = Dataset()
    strange.ScheduledWorkitemCodeSequence = [Dataset()]
    strange.InputInformationSequence = [Dataset()]
    assert read_workitem(strange).codes == ()
    assert read_workitem(strange).inputs[0].instances == ()


def test_codes_of_every_length() -> None:
    ds = Dataset()
    long, urn = code("", "99X", "long"), code("", "99X", "urn")
    del long.CodeValue, urn.CodeValue
    long.LongCodeValue, urn.URNCodeValue = "x" * 20, "urn:oid:1.2"
    ds.ScheduledWorkitemCodeSequence = [code(*CODE), long, urn]
    assert [c.value for c in read_codes(ds, "ScheduledWorkitemCodeSequence")] == [CODE[0], "x" * 20, "urn:oid:1.2"]


def event(kind: Any, **more: Any) -> str:
    said = {"00001000": {"vr": "UI", "Value": ["1.2.3.9"]}, "00001002": {"vr": "US", "Value": [kind]}}
    return json.dumps({**said, **more})


def test_events_that_matter() -> None:
    assert read_event(event(1, **{"00741000": {"vr": "CS", "Value": ["SCHEDULED"]}})) == Event("1.2.3.9", "SCHEDULED")
    asked = {"00741236": {"vr": "AE", "Value": ["RIS"]}, "00741238": {"vr": "LT", "Value": ["wrong patient"]}}
    assert read_event(event(2, **asked)) == Event("1.2.3.9", cancel=CancelRequest("RIS", "wrong patient"))
    assert read_event(event(2)) == Event("1.2.3.9", cancel=CancelRequest())
    assert read_event(event(3)) is None


STRANGE = (b"", b"\xff", "null", "[]", "{}", "[[1]]", event(None), event("two"), '{"00001000": 1}')


@pytest.mark.parametrize("text", [*STRANGE, event(2, **{"00741238": 1})])
def test_events_that_are_none(text: str | bytes) -> None:
    assert read_event(text) is None


def test_a_websocket_has_the_credentials_and_the_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_USER", "node")
    monkeypatch.setenv("WEB_PASSWORD", "sécret")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("node").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "node.pem"))
    values: dict[str, Any] = {
        "name": "ris",
        "dicomweb_url": "https://ris.example/dw/",
        "workitems": ({"value": "C", "scheme": "S", "algorithm": "a"},),
        "username_env": "WEB_USER",
        "password_env": "WEB_PASSWORD",
        "ca_file": tmp_path / "ca.pem",
    }
    worklist = Worklist(**values, client_certificate=tmp_path / "node.pem")
    with HttpPeer(worklist, str(worklist.dicomweb_url)) as web:
        url, headers, tls = web.websocket("/subscribers/NODE")
    assert url == "wss://ris.example/dw/subscribers/NODE"
    assert headers == {"Authorization": "Basic bm9kZTpzw6ljcmV0"}
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname, len(tls.get_ca_certs())) == (ssl.CERT_REQUIRED, True, 1)
    (tmp_path / "empty.pem").write_text("")
    worklist = Worklist(**{**values, "ca_file": tmp_path / "empty.pem"})
    with HttpPeer(worklist, str(worklist.dicomweb_url)) as web, pytest.raises(PeerError, match="ris"):
        web.websocket("/subscribers/NODE")
