"""An archive that is asked for its count, and lies, is slow, down, or refuses: what becomes of the study, and when.

The clock is wound by hand; the archive is a real server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.uid import MRImageStorage

from dicom_node.complete.evidence import Evidence
from dicom_node.errors import ConfigurationError
from dicom_node.model.completeness import By
from dicom_node.model.instance import Instance
from dicom_node.model.states import StudyState
from dicom_node.settings import Settings, Source, load_settings
from dicom_node.store.counts import Completions, Counts
from dicom_node.store.index import Index
from dicom_node.store.tables import open_engine
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.workflow import counts, study
from tests.web_server import Answer, Request, web_server

STUDY, SERIES, RESULTS = "1.2.40", "1.2.30", "1.2.31"
REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
COMPLETE = {"quiet_seconds": 10, "hold_seconds": 100, "settle_seconds": 30, "answer_seconds": 15}


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Archive:
    """QIDO-RS of one study.

    Attributes:
        series: instances by series; as DICOM JSON has it, so anything may stand there.
        modality: by series; MR otherwise.
        classes: of the instances of a series, when they are asked for one by one.
        status: of every answer, unless it is 200.
    """

    series: dict[str, Any] = field(default_factory=dict)
    modality: dict[str, str] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    status: int = 200
    asked: list[str] = field(default_factory=list)

    def __call__(self, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        self.asked.append(path)
        if self.status != 200:
            return Answer(self.status)
        if found := re.fullmatch(rf"/studies/{STUDY}/series/(.*)/instances", path):
            items = [
                {"00080016": ui(sop_class), "00080018": ui(f"{found[1]}.{n}")}
                for n, sop_class in enumerate(self.classes[found[1]])
            ]
        else:
            items = [
                {
                    "0020000E": ui(uid),
                    "00080060": {"vr": "CS", "Value": [self.modality.get(uid, "MR")]},
                    **({} if n is None else {"00201209": {"vr": "IS", "Value": [n]}}),
                }
                for uid, n in self.series.items()
            ]
        return Answer(200, json.dumps(items).encode(), {"Content-Type": "application/dicom+json"})


def ui(uid: str) -> dict[str, Any]:
    return {"vr": "UI", "Value": [uid]}


def instance(number: int, **changes: Any) -> Instance:
    made = Instance(
        SOPInstanceUID=f"{SERIES}.{number}",
        SOPClassUID=str(MRImageStorage),
        SeriesInstanceUID=SERIES,
        StudyInstanceUID=STUDY,
        TransferSyntaxUID="1.2.840.10008.1.2.1",
        digest=f"{number}",
        path=f"{number}",
        size=1,
        patient_key="p",
        tags={"HasPixelData": True},
        source="PACS",
    )
    return replace(made, **changes)


@dataclass
class Site:
    """A study that receives; times are in seconds since its last image came."""

    index: Index
    clock: Clock
    services: Any
    source: Source
    evidence: Evidence
    started: list[str] = field(default_factory=list)
    last: float = 0.0

    def send(self, *instances: Instance) -> None:
        for i in instances:
            self.index.add(i)
        self.last = self.clock.now

    def at(self, seconds: float) -> str:
        """What the ticks do until then, each half second; returns what decided, or what it waits for."""
        while True:
            counts.ask_counts(self.services, self.source, self.evidence)
            study.sweep(self.services, self.evidence)
            row = self.index.study(STUDY)
            assert row is not None
            if row.state != StudyState.RECEIVING or self.clock.now >= self.last + seconds:
                break
            self.clock.now += 0.5
        if row.state == StudyState.RECEIVING:
            return self.evidence.verdicts([row])[0][1].words
        return str(Completions(self.services.engine).all()[STUDY][-1][2])

    @property
    def after(self) -> float:
        """How long after its last image the study was whole."""
        return Completions(self.services.engine).all()[STUDY][-1][1] - self.last

    @property
    def words(self) -> str:
        return Completions(self.services.engine).all()[STUDY][-1][3]


def a_site(folder: Path, **source: Any) -> Site:
    clock = Clock()
    engine = open_engine(f"sqlite:///{folder / 'node.sqlite'}")
    index = Index(engine, clock)
    settings = Settings(complete=COMPLETE, sources=[{"name": "pacs", "ae_title": "PACS", **source}])
    started: list[str] = []
    client = SimpleNamespace(enqueue_in_transaction=lambda *a: started.append(a[1]["workflow_id"]))
    services = SimpleNamespace(engine=engine, index=index, settings=settings, client=client)
    return Site(index, clock, services, settings.sources[0], Evidence(index, settings), started)


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture
def site(tmp_path: Path, archive: Archive) -> Iterator[Site]:
    with web_server(archive) as server:
        made = a_site(tmp_path, kind="dicomweb", dicomweb_url=server.url, timeout_seconds=5)
        yield made
        made.services.engine.dispose()


def test_a_count_that_stands_still_and_equals_ours(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: 3}
    site.send(*(instance(n) for n in range(3)))
    assert site.at(20) == (
        "pacs has as many as are here; whether its count stands still is not yet known; "
        "waited for until nothing has come for 110 s"
    )
    assert site.at(40) == By.COUNT
    assert 30 <= site.after < 32
    assert site.started == [f"study:{STUDY}:1"]
    assert len(archive.asked) == 2


def test_an_archive_that_is_still_receiving(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: 2}
    site.send(instance(0), instance(1))
    site.at(25)
    archive.series, archive.classes = {SERIES: 3}, {SERIES: [str(MRImageStorage)] * 3}
    assert "pacs has 3 objects in 1 series, here are 2 objects in 1 series" in site.at(90)
    site.send(instance(2))
    assert site.at(40) == By.COUNT
    assert site.after < 2  # its count has stood still for long


def test_one_that_lies_is_waited_for_no_longer_than_it_is_settled(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: 4}
    archive.classes = {SERIES: [str(MRImageStorage)] * 4}
    site.send(*(instance(n) for n in range(3)))
    assert site.at(200) == By.QUIET
    assert 110 <= site.after < 111
    assert site.words == (
        "nothing new for 110 s; waited in vain: pacs has 4 objects in 1 series, here are 3 objects in 1 series"
    )
    assert len(archive.asked) < 40


@pytest.mark.parametrize("lie", [0, -1, 10**9])
def test_absurd_counts(site: Site, archive: Archive, lie: int) -> None:
    archive.series = {SERIES: lie}
    archive.classes = {SERIES: [str(MRImageStorage)] * 4}
    site.send(*(instance(n) for n in range(3)))
    assert site.at(200) == By.QUIET
    assert site.after >= 110


def test_a_count_that_changes_with_every_answer(site: Site, archive: Archive) -> None:
    def restless(request: Request) -> Answer:
        archive.series = {SERIES: 3 + len(archive.asked) % 2}
        return archive(request)

    with web_server(restless) as server:
        site.source = site.source.model_copy(update={"dicomweb_url": server.url})
        site.send(*(instance(n) for n in range(3)))
        assert site.at(200) == By.QUIET
    assert site.after >= 110


def test_the_node_s_own_results_and_others_reports_are_left_out(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: 3, RESULTS: 4, "1.2.32": 1}
    archive.modality = {"1.2.32": "SR"}
    site.send(*(instance(n) for n in range(3)))
    own = instance(90, SOPInstanceUID="1.2.31.1", SeriesInstanceUID=RESULTS, own=True)
    site.index.add(own)
    assert site.at(40) == By.COUNT


def test_reports_that_are_here_are_counted(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: 3, "1.2.32": 2}
    archive.modality = {"1.2.32": "SR"}
    report = instance(9, SOPInstanceUID="1.2.32.1", SeriesInstanceUID="1.2.32", SOPClassUID=REPORT)
    site.send(*(instance(n) for n in range(3)), report)
    assert "pacs has 5 objects in 2 series, here are 4 objects in 2 series" in site.at(60)


def test_what_is_no_image_in_an_image_s_series_is_looked_into_when_the_count_stands_still(
    site: Site, archive: Archive
) -> None:
    archive.series = {SERIES: 4}
    archive.classes = {SERIES: [*[str(MRImageStorage)] * 3, REPORT]}
    site.send(*(instance(n) for n in range(3)))
    assert site.at(100) == By.COUNT
    assert 30 < site.after < 45


def test_one_that_cannot_be_looked_into_is_believed(site: Site, archive: Archive) -> None:
    def shallow(request: Request) -> Answer:
        return Answer(500) if "/instances" in request.path else archive(request)

    archive.series = {SERIES: 4}
    with web_server(shallow) as server:
        site.source = site.source.model_copy(update={"dicomweb_url": server.url})
        site.send(*(instance(n) for n in range(3)))
        assert site.at(200) == By.QUIET
    assert site.after >= 110
    assert "pacs has 4 objects in 1 series, here are 3" in site.words


def test_an_archive_that_counts_no_series_is_asked_for_each_instance(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: None}
    archive.classes = {SERIES: [*[str(MRImageStorage)] * 3, REPORT]}
    site.send(*(instance(n) for n in range(3)))
    assert site.at(40) == By.COUNT


def test_one_that_does_not_know_the_study_is_not_waited_for(site: Site) -> None:
    site.send(instance(0))
    assert site.at(40) == By.QUIET
    assert site.after < 11
    assert site.words == "nothing new for 10 s; pacs does not know the study"


@pytest.mark.parametrize(("status", "after"), [(503, 15), (401, 10)])
def test_one_that_refuses(site: Site, archive: Archive, status: int, after: float) -> None:
    archive.status = status
    site.send(instance(0))
    assert site.at(40) == By.QUIET
    assert after <= site.after < after + 1
    assert f"HTTP {status}" in site.words


def test_one_that_fails_once_is_asked_again(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: 1}
    archive.status = 503
    site.send(instance(0))
    site.at(3)
    archive.status = 200
    assert site.at(60) == By.COUNT
    assert site.after < 40


def test_one_that_goes_down_between_two_answers(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: 1}
    site.send(instance(0))
    site.at(5)
    archive.status = 503
    assert site.at(60) == By.QUIET
    assert 45 <= site.after < 47


def test_one_that_is_down(tmp_path: Path) -> None:
    site = a_site(tmp_path, host="127.0.0.1", port=9)
    site.send(instance(0))
    assert site.at(40) == By.QUIET
    assert 15 <= site.after < 16
    assert site.words.startswith("nothing new for 10 s; pacs did not give its count: pacs (PACS@127.0.0.1:9):")
    site.services.engine.dispose()


def test_one_that_does_not_answer_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that hangs holds nobody: the sweep runs beside it."""
    site = a_site(tmp_path, host="127.0.0.1", port=9)
    site.send(instance(0))
    monkeypatch.setattr(counts, "ask_counts", lambda *_: 0)
    assert site.at(40) == By.QUIET
    assert 15 <= site.after < 16
    assert site.words == "nothing new for 10 s; pacs did not give its count"
    site.services.engine.dispose()


def test_one_that_knows_another_ae_title(tmp_path: Path) -> None:
    with FakePacs(calling_ae_titles=["SOMEBODY"]) as pacs:
        site = a_site(tmp_path, ae_title="FAKEPACS", host="127.0.0.1", port=pacs.port)
        site.send(instance(0, source="FAKEPACS"))
        assert site.at(40) == By.QUIET
        assert 10 <= site.after < 16
        assert "calling AE title" in site.words
        site.services.engine.dispose()


def test_one_that_has_no_c_find_at_that_level(tmp_path: Path) -> None:
    with FakePacs(find_levels=["STUDY"]) as pacs:
        site = a_site(tmp_path, ae_title="FAKEPACS", host="127.0.0.1", port=pacs.port)
        site.send(instance(0, source="FAKEPACS"))
        assert site.at(40) == By.QUIET
        assert site.after < 11
        assert "refused the SERIES query with 0xA900" in site.words
        site.services.engine.dispose()


def test_studies_of_others_are_not_counted(site: Site, archive: Archive) -> None:
    site.send(instance(0, source="CT1"))
    assert site.at(40) == By.QUIET
    assert (site.after, archive.asked) == (10, [])
    assert site.words == "nothing new for 10 s"


def test_studies_of_those_that_it_is_to_count_for(tmp_path: Path, archive: Archive) -> None:
    archive.series = {SERIES: 1}
    with web_server(archive) as server:
        site = a_site(tmp_path, kind="dicomweb", dicomweb_url=server.url, counts_for=["CT1"])
        site.send(instance(0, source="CT1"))
        assert site.at(40) == By.COUNT
        site.services.engine.dispose()


def test_one_that_is_not_to_be_asked(tmp_path: Path, archive: Archive) -> None:
    with web_server(archive) as server:
        site = a_site(tmp_path, kind="dicomweb", dicomweb_url=server.url, counts=False)
        site.send(instance(0))
        assert site.at(40) == By.QUIET
        assert (site.after, archive.asked) == (10, [])
        site.services.engine.dispose()


def test_a_late_image_is_a_revision_with_evidence_of_its_own(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: 1}
    site.send(instance(0))
    assert site.at(40) == By.COUNT
    site.clock.now += 100
    archive.series = {SERIES: 2}
    site.send(instance(1))
    assert site.at(40) == By.COUNT
    assert 30 <= site.after < 32
    assert site.started == [f"study:{STUDY}:1", f"study:{STUDY}:2"]


def test_a_study_that_is_removed_leaves_nothing(site: Site, archive: Archive) -> None:
    archive.series = {SERIES: 1}
    site.send(instance(0))
    assert site.at(40) == By.COUNT
    row = site.index.study(STUDY)
    assert row is not None
    assert site.index.remove_study(row)
    assert Completions(site.services.engine).all() == {}
    assert Counts(site.services.engine).of([STUDY]) == {}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"complete": {"settle_seconds": 400}},
            "complete.settle_seconds: no count could ever decide: .* which are 310",
        ),
        ({"complete": {"expect": "some"}}, "complete.expect: Input should be 'study' or 'series' .got 'some'"),
        ({"complete": {"hold_seconds": -1}}, "complete.hold_seconds: .*greater than or equal to 0"),
        ({"more": {"counts": False, "counts_for": ["CT1"]}}, "sources.pacs.counts_for: nothing is counted with counts"),
        ({"more": {"counts_for": ["CT1"]}}, "sources.pacs.counts_for: the studies of CT1 are counted by other already"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, **values.pop("more", {})}
    other = {**pacs, "name": "other", "counts": True, "counts_for": ["CT1"]}
    (tmp_path / "node.yaml").write_text(json.dumps({"sources": [other, pacs], **values}))
    with pytest.raises(ConfigurationError, match=words):
        load_settings(tmp_path / "node.yaml")
