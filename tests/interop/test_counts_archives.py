"""Real archives as counting sources: Orthanc by C-FIND, QIDO-RS and its REST API, DCMTK's dcmqrscp by C-FIND."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import yaml
from pydicom import Dataset
from pydicom.uid import BasicTextSRStorage

from dicom_node import app
from dicom_node.deliver.send import send
from dicom_node.errors import PeerError
from dicom_node.model.completeness import By
from dicom_node.model.states import RunState
from dicom_node.peer.counts import SeriesCount, count_instances
from dicom_node.run.registry import DEFAULT_FOLDER
from dicom_node.settings import Destination, Source, load_settings
from dicom_node.store.counts import Completions
from dicom_node.testing.phantom_head import write_head
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.faults.inline_pool import InlinePool
from tests.interop.dcmqrscp import AE_TITLE, dcmqrscp
from tests.interop.orthanc import Orthanc, orthanc
from tests.interop.test_full_way import ROUTES, until

NODE = "DICOMNODE"
WAYS = ("find", "qido", "orthanc", "dcmqrscp")
SETTLE_SECONDS = 2.0
SLOW_MACHINE = 3.0
"""The figure is 2 s; a machine that is busy with other tests gets a little more."""


@dataclass(frozen=True)
class Archives:
    """Two archives that know the node's AE title."""

    orthanc: Orthanc
    dcmqrscp_port: int

    def source(self, way: str, **more: Any) -> dict[str, Any]:
        """A source's settings."""
        kind = {"qido": "dicomweb", "orthanc": "orthanc"}.get(way, "dimse")
        ae_title, port = (AE_TITLE, self.dcmqrscp_port) if way == "dcmqrscp" else ("ORTHANC", self.orthanc.dicom_port)
        web = {"dicomweb_url": self.orthanc.dicomweb_url, "orthanc_url": self.orthanc.url}
        values = {"name": "archive", "kind": kind, "ae_title": ae_title, "host": "127.0.0.1", "port": port, **web}
        return {**values, "timeout_seconds": 20, **more}

    def store(self, way: str, files: list[Path]) -> None:
        source = Source(**self.source(way))
        to = Destination(name="x", ae_title=source.ae_title, host=source.host, port=source.port)
        assert not any(send(to, NODE, files).values())


@pytest.fixture(scope="module")
def archives() -> Iterator[Archives]:
    with ExitStack() as stack:
        server = stack.enter_context(orthanc(callers=[NODE]))
        yield Archives(server, stack.enter_context(dcmqrscp({NODE: 104})))


def a_study(way: str, slices: int = 5) -> list[Dataset]:
    pixels = np.zeros((slices, 16, 16), np.uint16)
    return slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)), key=f"counted {way}")


def report(image: Dataset, *, series: str) -> Dataset:
    """A text SR of an image's study, in a series."""
    ds = Dataset()
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "StudyTime"):
        setattr(ds, keyword, image.get(keyword, ""))
    ds.SOPClassUID, ds.SOPInstanceUID = BasicTextSRStorage, f"{series}.77"
    ds.SeriesInstanceUID, ds.Modality = series, "SR"
    ds.file_meta = image.file_meta.__class__()
    ds.file_meta.TransferSyntaxUID = image.file_meta.TransferSyntaxUID
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


@pytest.mark.parametrize("way", WAYS)
def test_series_are_counted(archives: Archives, way: str, tmp_path: Path) -> None:
    images = a_study(way)
    study, series = str(images[0].StudyInstanceUID), str(images[0].SeriesInstanceUID)
    source = Source(**archives.source(way))
    assert count_instances(source, NODE, study) == []
    archives.store(way, save(tmp_path / "first", images[:3]))
    assert count_instances(source, NODE, study) == [SeriesCount(series, 3)]
    archives.store(way, save(tmp_path / "rest", images[3:]))
    archives.store(way, save(tmp_path / "report", [report(images[0], series=f"{series}.1")]))
    found = {c.SeriesInstanceUID: c for c in count_instances(source, NODE, study)}
    assert found.keys() == {series, f"{series}.1"}
    assert found[series] == SeriesCount(series, 5)
    assert (found[f"{series}.1"].instances, found[f"{series}.1"].has_images) == (1, False)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_image_in_a_series_is_found_where_classes_are_told(
    archives: Archives, way: str, tmp_path: Path
) -> None:
    images = slice_datasets(
        np.zeros((2, 16, 16), np.uint16), plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)), key=f"mixed {way}"
    )
    series = str(images[0].SeriesInstanceUID)
    text = report(images[0], series=series)
    text.Modality = "MR"  # some modalities do so
    archives.store(way, save(tmp_path / "mixed", [*images, text]))
    (found,) = count_instances(Source(**archives.source(way)), NODE, str(images[0].StudyInstanceUID), [series])
    told = way in ("find", "qido")  # dcmqrscp names no SOP Class, and Orthanc's own API is not looked into
    assert found == SeriesCount(series, 3, True, frozenset({text.SOPInstanceUID} if told else ()))


def test_an_archive_that_does_not_know_us(archives: Archives) -> None:
    with pytest.raises(PeerError, match="may STRANGER ask it"):
        count_instances(Source(**archives.source("find", calling_ae_title="STRANGER")), NODE, "1.2.3")


def test_an_archive_that_is_called_by_another_name(archives: Archives) -> None:
    source = Source(**archives.source("dcmqrscp", ae_title="NOBODY"))
    with pytest.raises(PeerError, match="called AE title") as caught:
        count_instances(source, NODE, "1.2.3")
    assert not caught.value.retryable


@pytest.mark.parametrize("way", WAYS)
def test_the_whole_way_from_an_archive_that_is_still_receiving(
    archives: Archives, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "WorkerPool", InlinePool)
    head = write_head(tmp_path / "head", spacing=(12, 8, 8), patient_id=f"counted-{way}")
    shutil.copytree(DEFAULT_FOLDER / "threshold_demo", tmp_path / "algorithms" / "threshold_demo")
    (tmp_path / "routes.yaml").write_text(ROUTES)
    values: dict[str, Any] = {
        "data_dir": str(tmp_path / "data"),
        "run": {"algorithms_dir": str(tmp_path / "algorithms")},
        "receive": {"ae_title": NODE, "port": 0, "disk_reserve_mb": 0},
        "complete": {"quiet_seconds": 600, "hold_seconds": 600, "settle_seconds": SETTLE_SECONDS},
        "sources": [archives.source(way, counts_for=["SENDER"])],
        # Results go back to where the count is taken: they must not be counted.
        "destinations": [{**archives.source(way), "confirm": "none", "kind": "dimse"}],
    }
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(values))
    node = app.Node(load_settings(tmp_path / "node.yaml"))
    node.start()
    try:
        s = node.services
        here = Destination(name="node", ae_title=NODE, host="127.0.0.1", port=node.listener.port)
        archives.store(way, head[:-1])
        assert not any(send(here, "SENDER", head[:-2]).values())
        begun = time.monotonic()
        until(lambda: time.monotonic() > begun + SETTLE_SECONDS + 2)
        assert s.index.studies()[0].revision == 0  # the archive has one more
        archives.store(way, head[-1:])
        assert not any(send(here, "SENDER", head[-2:]).values())
        until(lambda: s.index.studies()[0].revision == 1)
        (row,) = s.index.studies()
        ((_, at, by, words),) = Completions(s.engine).all()[row.study_uid]
        assert by == By.COUNT
        assert words.startswith(
            f"archive has as many as are here, {len(head)} objects in 1 series, and its count stood"
        )
        assert at - row.last_arrival < SETTLE_SECONDS + SLOW_MACHINE
        until(lambda: [r.state for r in s.runs.all()] == [RunState.DONE])
        assert sum(c.instances for c in count_instances(s.settings.sources[0], NODE, row.study_uid)) > len(head)

        late = save(tmp_path / "late", [late_image(head[0])])
        archives.store(way, late)
        assert not any(send(here, "SENDER", late).values())
        until(lambda: s.index.studies()[0].revision == 2)
        assert Completions(s.engine).all()[row.study_uid][1][2] == By.COUNT
    finally:
        node.stop()


def late_image(path: Path) -> Dataset:
    """Another image of the same series."""
    ds = pydicom.dcmread(path)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID[:50]}.1"
    return ds
