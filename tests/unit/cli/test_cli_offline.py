"""The commands on folders of files, as their user sees them: output, exit code, never a traceback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pydicom
import pytest

from dicom_node import offline
from dicom_node.deliver.dimse import send
from dicom_node.settings import Destination
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.phantom_head import write_head, write_localizer, write_two_patients
from tests.unit.cli.conftest import configure, dicom_node


def test_run_leaves_sound_results_and_says_what_they_are(site: Path, head: Path) -> None:
    out = site / "out"
    said = dicom_node("run", "threshold_demo", head, "--out", out)
    assert "Bright tissue volume" in said.stdout
    assert "For research use only" in said.stdout
    result = json.loads((out / "result.json").read_text())
    assert (result["state"], result["reason"]) == ("done", "")
    assert result["measurements"][0]["unit"] == "mL"
    assert result["source"] == str(head)
    assert result["other_series"] == []
    assert (
        sorted(result["files"])
        == sorted(p.name for p in out.glob("*.dcm"))
        == ["contours.dcm", "sc.dcm", "seg.dcm", "sr.dcm"]
    )
    assert "sound" in dicom_node("check", out).stderr
    again = json.loads(dicom_node("run", "threshold_demo", head, "--out", out, "--json").stdout)
    assert again["measurements"] == result["measurements"]


def test_run_makes_a_document_where_a_destination_takes_one(site: Path, head: Path) -> None:
    document = {"name": "letters", "ae_title": "PACS", "host": "127.0.0.1", "port": 11113, "results": ["pdf"]}
    configure(site, destinations=[document])
    result = json.loads(dicom_node("run", "threshold_demo", head, "--out", site / "out", "--json").stdout)
    assert sorted(result["files"]) == ["contours.dcm", "pdf.dcm", "sc.dcm", "seg.dcm", "sr.dcm"]
    assert "sound" in dicom_node("check", site / "out").stderr
    dicom_node("run", "picky", head, "--out", site / "out", code=3)
    assert sorted(p.name for p in (site / "out").glob("*.dcm")) == ["pdf.dcm", "sr.dcm"]


def test_run_in_a_process_of_its_own(site: Path, head: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "dicom_node.cli", "run", "threshold_demo", head, "--out", site / "out", "--json"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["state"] == "done"
    assert result["record"]["machine"]["device"] == "cpu"
    assert "Traceback" not in ended.stderr


def test_not_analysed_is_an_exit_code_a_reason_and_a_report(site: Path, head: Path) -> None:
    out = site / "out"
    said = dicom_node("run", "picky", head, "--out", out, code=3)
    assert said.stderr.strip() == "Not analysed, because the contrast is that of a [pomelo]"
    result = json.loads((out / "result.json").read_text())
    assert (result["state"], result["files"]) == ("not_analysed", ["sr.dcm"])
    dicom_node("check", out)


def test_what_the_manifest_does_not_accept_is_not_analysed(site: Path) -> None:
    write_localizer(site / "scouts")
    said = dicom_node("run", "threshold_demo", site / "scouts", "--out", site / "out", code=3)
    assert "takes 5 slices or more, and these are 3" in said.stderr
    dicom_node("check", site / "out")


def test_of_two_series_the_fitting_one_is_taken_and_it_is_said(site: Path) -> None:
    (kept, *_) = write_head(site / "both" / "head", spacing=(12, 8, 8))
    write_localizer(site / "both" / "scouts")
    said = dicom_node("run", "threshold_demo", site / "both", "--out", site / "out")
    taken = pydicom.dcmread(kept).SeriesInstanceUID
    assert said.stderr.strip().startswith(f"Of 2 series, {taken} (")
    assert len(json.loads((site / "out" / "result.json").read_text())["other_series"]) == 1
    dicom_node("check", site / "out")


def test_a_text_file_and_a_copy_in_the_folder_change_nothing(site: Path, head: Path) -> None:
    folder = shutil.copytree(head, site / "head")
    shutil.copy(min(head.iterdir()), folder / "copy.dcm")
    (folder / "notes.txt").write_text("hello")
    said = dicom_node("run", "threshold_demo", folder, "--out", site / "out", "--json")
    assert json.loads(said.stdout)["state"] == "done"
    assert "notes.txt" in said.stderr
    dicom_node("run", "threshold_demo", head, "--out", site / "plain")
    uids = [pydicom.dcmread(site / out / "seg.dcm").SOPInstanceUID for out in ("out", "plain")]
    assert uids[0] == uids[1]


def test_two_patients_in_a_study_are_never_analysed(site: Path) -> None:
    write_two_patients(site / "two", spacing=(12, 8, 8))
    assert "2 patients" in dicom_node("run", "threshold_demo", site / "two", "--out", site / "out", code=1).stderr


def test_a_damaged_image_is_named(site: Path, head: Path) -> None:
    folder = shutil.copytree(head, site / "head")
    spoilt = min(folder.iterdir())
    spoilt.write_bytes(spoilt.read_bytes()[:600])
    said = dicom_node("run", "threshold_demo", folder, "--out", site / "out")
    assert f"left out: {spoilt}: the dataset is truncated" in said.stderr
    note = "Files that could not be read and were left out: 1."
    assert note in json.loads((site / "out" / "result.json").read_text())["notes"]
    texts = [e.value for e in pydicom.dcmread(site / "out" / "sr.dcm").iterall() if e.keyword == "TextValue"]
    assert note in texts


@pytest.mark.parametrize(
    ("algorithm", "source", "reason"),
    [
        ("nosuch", "head", "there is no algorithm 'nosuch'; there are: picky, threshold_demo"),
        ("threshold_demo", "empty", "there is no DICOM file in"),
        ("threshold_demo", "nowhere", "does not exist"),
        ("threshold_demo", "file.txt", "there is no DICOM file in"),
    ],
)
def test_run_on_nothing(site: Path, head: Path, algorithm: str, source: str, reason: str) -> None:
    (site / "empty").mkdir()
    (site / "file.txt").write_text("hello")
    source_path = head if source == "head" else site / source
    assert reason in dicom_node("run", algorithm, source_path, "--out", site / "out", code=1).stderr
    assert not (site / "out").exists()


def test_run_never_removes_what_is_not_its_own(site: Path, head: Path) -> None:
    folder = shutil.copytree(head, site / "head")
    before = sorted(folder.iterdir())
    said = dicom_node("run", "threshold_demo", folder, "--out", folder, code=1)
    assert "is no result of an earlier run; give an empty or new folder" in said.stderr
    assert sorted(folder.iterdir()) == before


def test_run_into_a_file(site: Path, head: Path) -> None:
    said = dicom_node("run", "threshold_demo", head, "--out", site / "node.yaml", code=1)
    assert said.stderr.strip() == f"--out {site / 'node.yaml'}: cannot be written: File exists"


@pytest.fixture
def results(site: Path, head: Path) -> Path:
    dicom_node("run", "threshold_demo", head, "--out", site / "out")
    return site / "out"


def test_check_names_every_problem(results: Path, head: Path) -> None:
    seg = results / "seg.dcm"
    frame = str(pydicom.dcmread(seg).FrameOfReferenceUID).encode()
    seg.write_bytes(seg.read_bytes().replace(frame, frame[:-1] + (b"1" if frame[-1:] != b"1" else b"2")))
    for more in ([], ["--source", head]):
        said = dicom_node("check", results, *more, code=1)
        assert "seg.dcm" in said.stdout
        assert "FrameOfReferenceUID" in said.stdout
        assert said.stderr.strip().endswith(("1 problem", "problems"))


def test_check_without_the_images_says_what_that_leaves_out(results: Path, head: Path) -> None:
    dicom_node("check", results, "--source", head)
    (results / "result.json").unlink()
    said = dicom_node("check", results)
    assert "without the source images" in said.stderr
    assert "sound" in said.stderr


@pytest.mark.parametrize("text", ["{broken", "[1]", "{}", '{"source": 5, "files": []}', '{"source": "/x"}'])
def test_check_with_an_unreadable_record(results: Path, head: Path, text: str) -> None:
    (results / "result.json").write_text(text)
    assert "result.json: is not what `dicom-node run` writes" in dicom_node("check", results, code=2).stderr
    dicom_node("check", results, "--source", head)


def test_check_on_nothing(results: Path, site: Path) -> None:
    (site / "empty").mkdir()
    assert "there is no result object (*.dcm)" in dicom_node("check", site / "empty", code=2).stderr
    assert "is not a folder" in dicom_node("check", site / "nowhere", code=2).stderr
    assert "is not a folder" in dicom_node("check", site / "node.yaml", code=2).stderr
    said = dicom_node("check", results, "--source", site / "nowhere", code=2).stderr
    assert said.strip() == f"--source {site / 'nowhere'} does not exist"
    assert "is not there" in dicom_node("check", results, "--source", site / "empty", code=1).stdout


def test_send(head: Path) -> None:
    with FakePacs() as pacs:
        to = f"FAKEPACS@127.0.0.1:{pacs.port}"
        said = dicom_node("send", head, "--to", to)
        files = list(head.iterdir())
        assert said.stderr.splitlines() == [f"{len(files)} accepted, 0 refused"]
        assert set(pacs.received) == {str(pydicom.dcmread(f).SOPInstanceUID) for f in files}
        report = json.loads(dicom_node("send", files[0], "--to", to, "--json").stdout)
        assert len(report["accepted"]) == 1
        pacs.refuse_with(0xA700)
        refused = dicom_node("send", files[0], "--to", to, code=1).stderr
        assert "0 accepted, 1 refused" in refused
        assert "out of resources" in refused


@pytest.mark.parametrize(
    "to", ["bad", "A@127.0.0.1", "A@127.0.0.1:99999", "A@127.0.0.1:x", "@127.0.0.1:1", "LONGER-THAN-AN-AE-TITLE@h:1"]
)
def test_send_to_what_is_no_address(head: Path, to: str) -> None:
    assert "must be AET@HOST:PORT, for example DICOMNODE@" in dicom_node("send", head, "--to", to, code=1).stderr


def test_send_that_cannot_work(head: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        to = f"PACS@127.0.0.1:{closed.getsockname()[1]}"
        assert f"({to}): no connection: is it running?" in dicom_node("send", head, "--to", to, code=1).stderr
    assert "does not exist" in dicom_node("send", tmp_path / "nowhere", "--to", to, code=1).stderr
    assert "there is no DICOM file" in dicom_node("send", tmp_path, "--to", to, code=1).stderr
    assert "must be an AE title" in dicom_node("send", head, "--to", to, "--from", "X" * 17, code=1).stderr


def test_send_to_a_peer_that_goes_away_tells_how_far_it_came(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakePacs() as pacs:

        def send_once(destination: Destination, calling: str, paths: list[Path]) -> Mapping[str, str]:
            done = send(destination, calling, paths)
            pacs.down()
            return done

        monkeypatch.setattr(offline, "send", send_once)
        monkeypatch.setattr(offline, "_SEND_AT_ONCE", 5)
        said = dicom_node("send", head, "--to", f"FAKEPACS@127.0.0.1:{pacs.port}", code=1).stderr
    assert said.strip().endswith("is it running?; 5 of 14 files had been sent")
