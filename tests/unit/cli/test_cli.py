"""The commands about the node itself, as their user sees them: output, exit code, never a traceback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from dbos import DBOS

from dicom_node import __version__, app
from dicom_node.model.result import ResultObject
from dicom_node.model.states import DeliveryState, RunState, StudyState
from dicom_node.receive.folder import instance_of
from dicom_node.store.commitments import Commitments
from dicom_node.store.index import Index
from dicom_node.store.runs import RunRow, Runs
from dicom_node.store.tables import open_engine
from dicom_node.testing.phantom_head import write_head, write_localizer, write_two_patients
from tests.faults.inline_pool import InlinePool
from tests.unit.cli.conftest import ROUTES, InlineWorker, configure, dicom_node


def test_version() -> None:
    assert dicom_node("--version").stdout.strip() == __version__


def test_algorithms(site: Path) -> None:
    said = dicom_node("algorithms").stdout
    assert "threshold_demo" in said
    assert "MR volume" in said
    listed = json.loads(dicom_node("algorithms", "--json").stdout)
    assert [a["id"] for a in listed] == ["picky", "threshold_demo"]
    assert listed[1]["accepts"]["min_slices"] == 5


def test_looking_needs_no_torch(site: Path, head: Path) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom dicom_node.cli import app\n"
        f"head, empty = {str(head)!r}, {str(site / 'algorithms')!r}\n"
        "for line in (['algorithms'], ['route', 'explain', head], ['send', head, '--to', 'A@127.0.0.1:1'],\n"
        "             ['check', empty], ['studies'], ['runs', 'list'], ['--help']):\n"
        "    print(CliRunner().invoke(app, line).exit_code)\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'monai'}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout.split() == ["0", "0", "1", "2", "2", "2", "0"]


@pytest.fixture
def data(site: Path, head: Path) -> Path:
    """A data folder in which a head was analysed, and its delivery failed."""
    engine = open_engine(f"sqlite:///{site / 'data' / 'node.sqlite'}")
    DBOS.migrate(str(engine.url))  # the engine's tables, which a node that served has made
    index, runs = Index(engine), Runs(engine)
    instances = [instance_of(p) for p in sorted(head.iterdir())]
    for i in instances:
        index.add(i)
    study = instances[0].StudyInstanceUID
    index.note(study, "an image [came] twice")
    for state in (StudyState.COMPLETE, StudyState.ROUTED):
        row = index.study(study)
        assert row is not None
        with engine.begin() as c:
            assert index.finish(c, row, state, "")
    for run_id in ("1.1", "1.2", "1.3"):
        with engine.begin() as c:
            runs.create(c, queued(run_id, study, instances[0].SeriesInstanceUID))
        measured = {"name": "Volume", "value": 1.5, "unit": "mL", "flag": None}
        runs.set_outcome(run_id, [measured], {"notes": ["a note"], "outcome": "found"})
        runs.set_results(run_id, [ResultObject("sr", f"{run_id}.9", "1.2.3", "1.2.4", Path("sr.dcm"))])
    for run_id in ("1.1", "1.2"):
        runs.set_state(run_id, RunState.RUNNING)
        runs.set_state(run_id, RunState.DELIVERING)
        with engine.begin() as c:
            runs.open_deliveries(c, run_id, "pacs", [f"{run_id}.9"])
    runs.set_delivery("1.1", "pacs", "1.1.9", DeliveryState.FAILED, "refused with 0xA900")
    runs.set_state("1.1", RunState.FAILED, "not delivered to pacs")
    engine.dispose()
    return site / "data"


def queued(run_id: str, study: str, series: str) -> RunRow:
    return RunRow(run_id, study, 1, series, "threshold_demo", ("pacs",), (), RunState.QUEUED, "", 0, 0, None, (), {})


def test_studies(data: Path) -> None:
    said = dicom_node("studies").stdout
    assert "routed, revision 1, 14 images" in said
    assert "an image [came] twice" in said
    (study,) = json.loads(dicom_node("studies", "--json").stdout)
    assert study["StudyInstanceUID"] in said
    assert (study["state"], study["instances"], study["notes"]) == ("routed", 14, ["an image [came] twice"])


def test_status(data: Path) -> None:
    engine = open_engine(f"sqlite:///{data / 'node.sqlite'}")
    Commitments(engine).add("CT1", "1.2.3", "NODE", "10.0.0.7", [("1.2", "1.3")])
    engine.dispose()
    said = dicom_node("status").stdout
    assert "MB free, 0 MB in reserve" in said
    assert "studies: 1 routed" in said
    assert "runs: 1 delivering, 1 failed, 1 queued" in said
    assert "storage commitment for CT1 since" in said
    status = json.loads(dicom_node("status", "--json").stdout)
    assert status["disk"]["state"] == "sufficient"
    assert [c["state"] for c in status["commitments"]] == ["waiting"]


def test_status_of_a_full_disk(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE__RECEIVE__DISK_RESERVE_MB", str(1 << 50))
    ended = dicom_node("status", "--json", code=1)
    assert json.loads(ended.stdout)["disk"]["state"] == "below_reserve"
    assert "0xA700 Out of Resources (receive.disk_reserve_mb)" in ended.stderr


def test_runs_list(data: Path) -> None:
    said = dicom_node("runs", "list").stdout
    assert "1.1: failed, threshold_demo on study" in said
    assert "not delivered to pacs" in said
    assert "Volume 1.50 mL" in said
    assert "sr to pacs: not sent (refused with 0xA900)" in said
    listed = json.loads(dicom_node("runs", "list", "--json").stdout)
    assert [r["state"] for r in listed] == ["failed", "delivering", "queued"]


def test_runs_show(data: Path) -> None:
    shown = json.loads(dicom_node("runs", "show", "1.1").stdout)
    assert shown["deliveries"][0] == {
        "destination": "pacs",
        "role": "sr",
        "SOPInstanceUID": "1.1.9",
        "delivered": False,
        "confirmed": False,
        "attempts": 1,
        "error": "refused with 0xA900",
    }
    assert shown["notes"] == ["a note"]
    assert "`dicom-node runs list` lists them" in dicom_node("runs", "show", "9", code=1).stderr


def test_runs_retry(data: Path) -> None:
    assert "`dicom-node runs list` lists them" in dicom_node("runs", "retry", "9", code=1).stderr
    for other, state in (("1.2", "delivering"), ("1.3", "queued")):
        said = dicom_node("runs", "retry", other, code=1).stderr
        assert said.strip() == f"run {other} is {state}: only a run that is failed or set_aside can be run again"
    assert "run 1.1 is queued again" in dicom_node("runs", "retry", "1.1").stderr
    shown = json.loads(dicom_node("runs", "show", "1.1").stdout)
    assert (shown["state"], shown["deliveries"][0]["error"]) == ("delivering", "")


@pytest.mark.parametrize(
    "command", [["status"], ["studies"], ["runs", "list"], ["runs", "show", "1"], ["runs", "retry", "1"]]
)
def test_where_no_node_has_been(site: Path, command: list[str]) -> None:
    assert "start one with `dicom-node serve`, or give --config" in dicom_node(*command, code=2).stderr
    assert not (site / "data").exists()


def test_a_node_that_got_nothing_yet(site: Path) -> None:
    open_engine(f"sqlite:///{site / 'data' / 'node.sqlite'}").dispose()
    assert "no study has come yet" in dicom_node("studies").stderr
    assert "nothing has run yet" in dicom_node("runs", "list").stderr
    assert json.loads(dicom_node("studies", "--json").stdout) == []


def test_a_database_that_is_none(site: Path) -> None:
    (site / "data").mkdir()
    (site / "data" / "node.sqlite").write_text("hello, I am no database at all" * 50)
    assert "cannot be opened: file is not a database" in dicom_node("studies", code=2).stderr
    configure(site, database_url="nonsense")
    assert "database_url: must be a URL" in dicom_node("studies", code=2).stderr


def test_route_explain(site: Path) -> None:
    write_head(site / "study" / "head", spacing=(12, 8, 8), header={"SeriesDescription": "T1 [/bold] MPRAGE"})
    write_localizer(site / "study" / "scouts")
    (site / "study" / "notes.txt").write_text("hello")
    lines = dicom_node("route", "explain", site / "study").stdout.splitlines()
    assert lines[0].startswith("study 2.25.")
    assert [line.split()[0] for line in lines[1:]] == ["no", "runs"]
    assert "takes 5 slices or more, and these are 3" in lines[1]
    assert "body part brain" in lines[2]
    (study,) = json.loads(dicom_node("route", "explain", site / "study", "--json").stdout)
    assert [r["wanted"] for r in study["routes"]] == [False, True]
    assert not (site / "data").exists()


def test_route_explain_of_two_patients(site: Path) -> None:
    write_two_patients(site / "two", spacing=(12, 8, 8))
    assert "refused, it holds instances of 2 patients" in dicom_node("route", "explain", site / "two").stdout
    assert "does not exist" in dicom_node("route", "explain", site / "nowhere", code=2).stderr


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.run.worker.Worker", InlineWorker)
    monkeypatch.setattr(app, "WorkerPool", InlinePool)


def test_config_check(site: Path, inline: None) -> None:
    said = dicom_node("config", "check").stdout
    assert "rule 'heads': threshold_demo 1.0.0 -> pacs" in said
    assert "destination pacs: PACS@127.0.0.1:11113, confirmed by find" in said
    assert "There is no GPU" in said
    assert said.splitlines()[-1] == "the configuration is sound"
    configure(site, database_url="postgresql+psycopg://node:s3cret@127.0.0.1:1/node")
    said = dicom_node("config", "check", code=2).stderr
    assert "database" in said
    assert "s3cret" not in said
    configure(site, data_dir=str(site / "node.yaml" / "data"))
    assert "node.yaml is no folder that this user may write to" in dicom_node("config", "check", code=2).stderr


def test_config_check_names_file_key_and_what_is_accepted(site: Path, inline: None) -> None:
    configure(site, datadir="x")
    said = dicom_node("config", "check", code=2).stderr
    assert said.startswith(f"{site / 'node.yaml'}: datadir: there is no such key; accepted: node_id, data_dir, ")
    configure(site, receive={"prot": 1})
    assert (
        "receive.prot: there is no such key; accepted: ae_title, host, port"
        in dicom_node("config", "check", code=2).stderr
    )
    configure(site, receive={"port": "many"})
    assert "receive.port:" in dicom_node("config", "check", code=2).stderr
    configure(site, destinations=[{"name": "a", "ae_title": "A", "host": "h", "port": 1, "proof": 1}])
    assert "accepted: name, ae_title, host, port, tls" in dicom_node("config", "check", code=2).stderr


def test_config_check_of_routes(site: Path, inline: None) -> None:
    (site / "routes.yaml").write_text(ROUTES.replace("[pacs]", "[pax]"))
    said = dicom_node("config", "check", code=2).stderr
    assert said.strip() == f"{site / 'routes.yaml'}: rule 'heads': deliver_to: 'pax' is unknown; accepted: pacs"
    (site / "routes.yaml").write_text(ROUTES.replace("threshold_demo", "nosuch"))
    assert "'nosuch' is unknown; accepted: picky, threshold_demo" in dicom_node("config", "check", code=2).stderr
    (site / "routes.yaml").unlink()
    assert "routes.yaml: cannot be read: No such file" in dicom_node("config", "check", code=2).stderr


def test_settings_that_are_not_there(site: Path) -> None:
    said = dicom_node("config", "check", "--config", site / "nowhere.yaml", code=2).stderr
    assert said.strip() == f"{site / 'nowhere.yaml'}: cannot be read: No such file or directory"
    assert "cannot be read: Is a directory" in dicom_node("studies", "--config", site, code=2).stderr


@pytest.mark.usefixtures("inline")
def test_serve_on_a_port_that_is_taken(site: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            configure(site, receive={"port": other.getsockname()[1], "disk_reserve_mb": 0})
            said = dicom_node("serve", code=2).stderr
            assert f"receive.port: cannot listen on 127.0.0.1 port {other.getsockname()[1]}: Address already" in said
        configure(site, data_dir=str(site / "node.yaml"))
        assert f"{site / 'node.yaml'}: File exists" in dicom_node("serve", code=2).stderr
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_demo_on_nothing(tmp_path: Path) -> None:
    said = dicom_node("demo", "--input", tmp_path / "nowhere", "--out", tmp_path / "out", code=1)
    assert "is not a folder" in said.stderr
    (tmp_path / "file").write_text("mine")
    said = dicom_node("demo", "--out", tmp_path / "file", code=1)
    assert said.stderr.strip() == f"--out {tmp_path / 'file'}: is not a folder"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    assert "holds other things" in dicom_node("demo", "--out", tmp_path / "folder", code=1).stderr
    assert (tmp_path / "folder" / "file").read_text() == "mine"
