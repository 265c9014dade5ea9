"""Commands and settings about worklists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dicom_node.model.states import WorkitemState
from dicom_node.model.workitem import CancelRequest, Coded
from dicom_node.store.tables import open_engine
from dicom_node.store.workitems import WorkitemRow, Workitems
from tests.unit.cli.conftest import InlineWorker, configure, dicom_node

CODE = Coded("110004", "DCM", "Computer Aided Detection")
URL = "http://127.0.0.1:9/dw"
WORKITEMS = [{"value": "110004", "scheme": "DCM", "algorithm": "threshold_demo"}]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.run.worker.Worker", InlineWorker)


def worklist(folder: Path, more: dict[str, Any], **settings: Any) -> None:
    values = {"name": "ris", "dicomweb_url": URL, "workitems": WORKITEMS}
    configure(folder, worklists=[{k: v for k, v in (values | more).items() if v is not None}], **settings)


def test_workitems_that_there_are_none_of(site: Path) -> None:
    open_engine(f"sqlite:///{site / 'data' / 'node.sqlite'}").dispose()
    assert "no workitem was taken yet" in dicom_node("workitems").stderr
    assert json.loads(dicom_node("workitems", "--json").stdout) == []


def test_workitems(site: Path) -> None:
    engine = open_engine(f"sqlite:///{site / 'data' / 'node.sqlite'}")
    rows = Workitems(engine)

    def taken(uid: str) -> WorkitemRow:
        assert rows.take("ris", uid, "2.25.1", "threshold_demo", CODE)
        row = rows.get("ris", uid)
        assert row is not None
        return row

    rows.move(taken("1.2.1"), WorkitemState.FETCHING, study_uid="1.2.9", source="pacs")
    assert rows.ask_cancel("ris", "1.2.1", CancelRequest("RIS", "wrong patient", (CODE,)))
    rows.move(taken("1.2.2"), WorkitemState.LOST, reason="another performer has it")
    rows.postpone(taken("1.2.3"), 5, "ris: no connection")
    engine.dispose()

    said = dicom_node("workitems").stdout.splitlines()

    assert "1.2.1 of ris: fetching, to be canceled, threshold_demo on study 1.2.9" in said
    assert said[said.index("1.2.2 of ris: lost, threshold_demo") + 1] == "    another performer has it"
    assert said[said.index("1.2.3 of ris: claiming, threshold_demo") + 1] == "    failures: 1, ris: no connection"
    listed = {r["workitem"]: r for r in json.loads(dicom_node("workitems", "--json").stdout)}
    assert (listed["1.2.1"]["source"], listed["1.2.1"]["cancel_requested"]) == ("pacs", True)
    assert listed["1.2.2"]["ended"] is not None


def test_config_check_says_what_is_taken(site: Path, inline: None) -> None:
    worklist(site, {})
    assert "worklist ris: workitems (110004, DCM) -> threshold_demo" in dicom_node("config", "check").stdout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"workitems": []}, "worklists.ris.workitems: name at least one"),
        ({"workitems": [*WORKITEMS, *WORKITEMS]}, "the code (110004, DCM) is there twice"),
        (
            {"workitems": [{**WORKITEMS[0], "algorithm": "liver"}]},
            "no algorithm 'liver'; accepted: picky, threshold_demo",
        ),
        ({"workitems": [{**WORKITEMS[0], "algorithm": "picky"}]}, "no rule of"),
        ({"workitems": [{"value": "1", "algorithm": "picky"}]}, "worklists.0.workitems.0.scheme: Field required"),
        ({"dicomweb_url": None}, "worklists.ris.dicomweb_url: needed for a worklist"),
        ({"source": "pacs"}, "worklists.ris.source: no source is named 'pacs'; known: none is configured"),
        ({"station": {"value": "A", "schema": "B"}}, "station.schema: there is no such key; accepted: value, scheme"),
        ({"token": 1}, "worklists.0.token: there is no such key; accepted: name,"),
        ({"username_env": "NO_SUCH"}, "worklists.ris.username_env: NO_SUCH is not set"),
    ],
)
def test_config_check_of_worklists(site: Path, inline: None, more: dict[str, Any], words: str) -> None:
    worklist(site, more)
    assert words in dicom_node("config", "check", code=2).stderr


def test_results_must_go_where_others_find_them(site: Path, inline: None) -> None:
    orthanc = {"name": "pacs", "kind": "orthanc", "orthanc_url": "http://127.0.0.1:9"}
    worklist(site, {}, destinations=[orthanc])
    said = dicom_node("config", "check", code=2).stderr
    assert "destinations.pacs: set ae_title or dicomweb_url: the workitems of ris say by them where results are" in said
    worklist(site, {}, destinations=[{**orthanc, "ae_title": "PACS"}])
    dicom_node("config", "check")


def test_two_worklists_of_one_name(site: Path) -> None:
    values = {"name": "ris", "dicomweb_url": URL, "workitems": WORKITEMS}
    configure(site, worklists=[values, values])
    assert "worklists: the name 'ris' is used twice" in dicom_node("config", "check", code=2).stderr
