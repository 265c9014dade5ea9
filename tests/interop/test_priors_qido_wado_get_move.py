"""Prior studies from real archives: C-FIND with C-MOVE and C-GET (dcmqrscp, Orthanc), QIDO-RS with WADO-RS, REST."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dicom_node.deliver.send import send
from dicom_node.model.states import StudyState
from dicom_node.receive.fetch import fetch_study
from dicom_node.settings import Destination
from dicom_node.store.priors import PriorFetches
from dicom_node.workflow import priors
from dicom_node.workflow.pull import ask_source
from dicom_node.workflow.study import ONLY_A_PRIOR
from tests.interop.dcmqrscp import AE_TITLE, dcmqrscp
from tests.interop.orthanc import Orthanc, free_port, orthanc
from tests.prior_site import BEFORE, CHANGE, NODE, NOW, PriorSite, head, measured, prior_site, study_of, until

WAYS = ("move", "get", "wado", "orthanc", "dcmqrscp-move", "dcmqrscp-get")
MISTAKEN = {"PatientBirthDate": "19610101"}


@dataclass(frozen=True)
class Archives:
    """Two archives with the same studies: the patient's, an older one, and one of a patient who got the same ID.

    Attributes:
        node_port: where both send to when they are asked for C-MOVE.
    """

    orthanc: Orthanc
    dcmqrscp_port: int
    node_port: int

    def source(self, way: str, **more: Any) -> dict[str, Any]:
        web = {"dicomweb_url": self.orthanc.dicomweb_url, "orthanc_url": self.orthanc.url, "host": "127.0.0.1"}
        kind = {"wado": "dicomweb", "orthanc": "orthanc"}.get(way, "dimse")
        ae_title, port = AE_TITLE, self.dcmqrscp_port
        if "dcmqrscp" not in way:
            ae_title, port = self.orthanc.ae_title, self.orthanc.dicom_port
        retrieve = "get" if way.endswith("get") else "move"
        return {
            "name": "archive",
            "kind": kind,
            "ae_title": ae_title,
            "port": port,
            "retrieve": retrieve,
            **web,
            **more,
        }


def before() -> list[Path]:
    return head(BEFORE, "before", seed=1)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    node_port = free_port()
    with ExitStack() as stack:
        server = stack.enter_context(orthanc(callers=[NODE]))
        port = stack.enter_context(dcmqrscp({NODE: node_port}))
        address = {"AET": NODE, "Host": "127.0.0.1", "Port": node_port}
        server.session.put(f"{server.url}/modalities/{NODE}", json=address, timeout=10).raise_for_status()
        studies = (before(), head("20200105", "old"), head("20250105", "mistaken", **MISTAKEN))
        for ae_title, at in ((server.ae_title, server.dicom_port), (AE_TITLE, port)):
            to = Destination(name="x", ae_title=ae_title, host="127.0.0.1", port=at)
            for files in studies:
                sent = send(to, NODE, files)
                assert not any(sent.values()), sent
        yield Archives(server, port, node_port)


@pytest.mark.parametrize("way", WAYS)
def test_the_prior_is_fetched_compared_with_and_not_delivered(archives: Archives, way: str, tmp_path: Path) -> None:
    with prior_site(tmp_path, [archives.source(way)], port=archives.node_port) as site:
        site.send(head(NOW, "now"))
        run = site.run()
        told = run.record["prior"]

        assert (told["state"], told["from"], told["findings"]) == ("found", "archive", "measured"), told
        assert (told["StudyInstanceUID"], told["days"]) == (study_of(before()), 731)
        assert measured(run)[CHANGE] != 0
        (study,) = site.report(run).PertinentOtherEvidenceSequence
        assert study.StudyInstanceUID == study_of(before())
        assert "birth date is not the same" in " ".join(told["passed_over"])
        # the prior is here, and nothing of it goes out
        until(lambda: site.s.index.study(study_of(before())).state == StudyState.UNWANTED)
        assert site.s.index.study(study_of(before())).reason == ONLY_A_PRIOR
        assert {ds.StudyInstanceUID for ds in site.pacs.received.values()} == {run.study_uid}
        assert len(site.s.runs.all()) == 1


def test_a_prior_that_is_asked_for_itself_is_analysed(archives: Archives, tmp_path: Path) -> None:
    with prior_site(tmp_path, [archives.source("orthanc")]) as site:
        allow_all_callers(site)
        site.send(head(NOW, "now"))
        site.run()
        until(lambda: site.s.index.study(study_of(before())).state == StudyState.UNWANTED)

        assert ask_source(site.s, "archive", [], [study_of(before())], None) == (1, [])
        run = site.run(number=2)
        assert run.study_uid == study_of(before())


def allow_all_callers(site: PriorSite) -> None:
    """The rule that asks for the scanner's AE title takes what the archive sends too."""
    (rule,) = site.s.rules
    object.__setattr__(rule, "when", tuple(c for c in rule.when if c.keyword != "calling_ae_title"))


def test_an_archive_that_lacks_one_is_told_apart_from_one_that_does_not_answer(
    archives: Archives, tmp_path: Path
) -> None:
    sources = [archives.source("wado"), archives.source("get", name="gone", port=9)]
    with prior_site(tmp_path, sources) as site:
        site.send(head("20191231", "first of all"))
        run = site.run()
        said = "No prior study was found. There may be one all the same: no complete answer came from gone."
        assert said in site.words(run)


def test_another_patients_study_with_the_same_id_is_not_even_fetched(archives: Archives, tmp_path: Path) -> None:
    with prior_site(tmp_path, [archives.source("dcmqrscp-get")]) as site:
        site.send(head(NOW, "now", PatientBirthDate="19000101"))
        run = site.run()
        assert any("3 earlier studies were not used" in w for w in site.words(run))
        assert len(site.s.index.studies()) == 1


def test_a_source_that_is_not_to_be_asked_is_not(archives: Archives, tmp_path: Path) -> None:
    with prior_site(tmp_path, [archives.source("wado", priors=False)]) as site:
        site.send(head(NOW, "now"))
        assert "No prior study was found." in site.words(site.run())


def test_what_comes_of_a_slow_archive_after_the_time_limit_is_kept_for_the_next_study(
    archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(*arguments: Any) -> Any:
        go_on.wait(60)
        return fetch_study(*arguments)

    monkeypatch.setattr(priors, "fetch_study", slow)
    with prior_site(tmp_path, [archives.source("get")], priors={"time_limit_seconds": 3}) as site:
        site.send(head(NOW, "now"))
        run = site.run()
        assert any("the time limit of 3 s passed" in w for w in site.words(run))
        go_on.set()
        fetches = PriorFetches(site.s.engine, site.s.index.clock)
        until(lambda: site.s.index.study(study_of(before())) and not fetches.is_partial(study_of(before())))
        until(lambda: site.s.index.study(study_of(before())).state == StudyState.UNWANTED)
        assert len(site.s.runs.all()) == 1
