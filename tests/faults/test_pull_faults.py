"""Pulling from an archive that fails on purpose: nothing is lost, nothing is asked for ever, nothing comes twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import sqlalchemy as sa

from dicom_node.errors import ConfigurationError
from dicom_node.model.states import PullState
from dicom_node.settings import ReceiveSettings, Settings, Source
from dicom_node.store.pulls import Pulls
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from dicom_node.workflow import pull
from tests.listening import Listening, listening
from tests.web_server import Answer, Request, web_server

AFFINE = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Archive:
    """What an Orthanc answers, and DICOMweb for one study.

    Attributes:
        studies: files by Study Instance UID, in the order in which they became stable.
        status: of every answer, unless it is 200.
        missing: so many bytes of each file (or WADO-RS answer) never come.
        honest: whether the Content-Length then tells so.
        first: the number before that of the first change.
    """

    studies: dict[str, dict[str, bytes]] = field(default_factory=dict)
    status: int = 200
    missing: int = 0
    honest: bool = True
    first: int = 0
    claimed: int | None = None
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def add(self, folder: Path, key: str) -> str:
        datasets = slice_datasets(np.ones((2, 256, 256), np.uint16), AFFINE, key=key, header={"AccessionNumber": key})
        files = save(folder / key, datasets)
        uid = str(datasets[0].StudyInstanceUID)
        self.studies[uid] = {str(ds.SOPInstanceUID): f.read_bytes() for ds, f in zip(datasets, files, strict=True)}
        return uid

    def __call__(self, request: Request) -> Answer:
        parts = urlsplit(request.path)
        self.asked.append(parts.path)
        if self.status != 200:
            return Answer(self.status)
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        if found := re.fullmatch("/instances/(.*)/file", parts.path):
            return self._cut(next(files[found[1]] for files in self.studies.values() if found[1] in files))
        if found := re.fullmatch("/dw/studies/(.*)", parts.path):
            head = b"--edge\r\nContent-Type: application/dicom\r\n\r\n"
            body = b"".join(head + file + b"\r\n" for file in self.studies[found[1]].values()) + b"--edge--"
            return self._cut(body, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=edge'})
        return Answer(200, json.dumps(self._json(parts.path, query, request.body)).encode())

    def _cut(self, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        return Answer(200, body[: len(body) - self.missing], headers or {}, missing=self.missing * self.honest)

    def _json(self, path: str, query: dict[str, str], body: bytes) -> Any:
        changes = [
            {"ChangeType": kind, "ID": uid, "Seq": self.first + 2 * number + seq}
            for number, uid in enumerate(self.studies)
            for seq, kind in ((1, "NewStudy"), (2, "StableStudy"))
        ]
        last = changes[-1]["Seq"] if changes else self.first
        if path == "/changes" and "last" in query:
            return {"Changes": changes[-1:], "Last": last, "Done": True}
        if path == "/changes":
            later = [c for c in changes if c["Seq"] > int(query["since"])]
            page = later[:3]  # so that there is always a second one
            return {
                "Changes": page,
                "Last": page[-1]["Seq"] if page else int(query["since"]),
                "Done": len(page) == len(later),
            }
        if path == "/tools/lookup":
            uid = body.decode()
            return [{"Type": "Study", "ID": uid}] if uid in self.studies else []
        if found := re.fullmatch("/studies/(.*)/instances", path):
            return [{"ID": u, "MainDicomTags": {"SOPInstanceUID": u}} for u in self.studies[found[1]]]
        if found := re.fullmatch("/studies/(.*)", path):
            return {"MainDicomTags": {"StudyInstanceUID": found[1]}}
        if path == "/dw/studies":
            count = {"vr": "IS", "Value": [self.claimed]}
            return [{"0020000D": {"vr": "UI", "Value": [u]}, "00201208": count} for u in self.studies]
        raise AssertionError(path)


@dataclass
class Site:
    archive: Archive
    node: Listening
    services: Any
    clock: Clock
    pulls: Pulls

    def source(self, **more: Any) -> Source:
        urls = {"orthanc_url": self.archive.url, "dicomweb_url": f"{self.archive.url}/dw"}
        return Source(**{"name": "archive", "kind": "orthanc", "timeout_seconds": 5, **urls, **more})

    def ask(self, source: Source, uid: str, instances: int | None = None) -> None:
        with self.pulls.engine.begin() as c:
            self.pulls.ask(c, source.name, [(uid, instances)])

    def fetch(self, source: Source) -> int:
        return pull.fetch_due(self.services, source, self.node.intake)

    def states(self) -> dict[str, str]:
        return {row.study_uid: str(row.state) for row in self.pulls.all()}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    archive, clock = Archive(), Clock()
    with listening(tmp_path / "node") as node, web_server(archive) as server:
        archive.url = server.url
        node.index.clock = clock
        settings = SimpleNamespace(receive=ReceiveSettings(), source=lambda name: Settings.source(named, name))
        named: Any = SimpleNamespace(sources=())
        services = SimpleNamespace(engine=node.index.engine, index=node.index, settings=settings)
        site = Site(archive, node, services, clock, Pulls(node.index.engine, clock))
        named.sources = (site.source(),)
        yield site


def test_a_storm_of_errors_is_waited_out(site: Site, tmp_path: Path) -> None:
    uid = site.archive.add(tmp_path, "one")
    source = site.source(retry_first_seconds=10, retry_longest_seconds=15)
    site.ask(source, uid)
    site.archive.status = 503

    assert site.fetch(source) == 0
    row = site.pulls.get("archive", uid)
    assert row is not None
    assert (row.state, row.attempts, row.due - site.clock()) == (PullState.PENDING, 1, 10)
    assert "HTTP 503" in row.reason
    asked = len(site.archive.asked)
    assert site.fetch(source) == 0
    assert len(site.archive.asked) == asked  # it is not due
    site.clock.now += 10
    assert site.fetch(source) == 0
    site.archive.status = 200
    site.clock.now += 15
    assert site.fetch(source) == 1
    assert site.states() == {uid: "done"}
    assert set(site.node.instances()) == set(site.archive.studies[uid])


def test_what_never_comes_is_given_up(site: Site, tmp_path: Path) -> None:
    uid = site.archive.add(tmp_path, "one")
    source = site.source(give_up_hours=1)
    site.ask(source, uid)
    site.archive.status = 500
    site.clock.now += 3601
    site.fetch(source)
    row = site.pulls.get("archive", uid)
    assert row is not None
    assert row.state == PullState.FAILED
    assert row.reason.startswith("given up after 1 h: archive (")
    site.archive.status = 200
    site.ask(source, uid)  # a person asks again
    assert site.fetch(source) == 1


def test_wrong_credentials_and_unknown_studies_are_final(site: Site, tmp_path: Path) -> None:
    uid = site.archive.add(tmp_path, "one")
    source = site.source()
    site.archive.status = 401
    site.ask(source, uid)
    site.fetch(source)
    assert site.states() == {uid: "failed"}
    site.archive.status = 200
    site.ask(source, "1.2.3.4")
    site.fetch(source)
    assert site.states() == {uid: "failed", "1.2.3.4": "failed"}


@pytest.mark.parametrize(
    ("kind", "honest", "words"),
    [("orthanc", True, "broke off"), ("dicomweb", True, "broke off"), ("dicomweb", False, "breaks off")],
)
def test_a_half_answer_keeps_nothing_half(site: Site, tmp_path: Path, kind: str, honest: bool, words: str) -> None:
    uid = site.archive.add(tmp_path, "one")
    source = site.source(kind=kind)
    site.archive.missing = 700
    site.archive.honest = honest
    site.ask(source, uid)
    assert site.fetch(source) == 0
    row = site.pulls.get("archive", uid)
    assert row is not None
    assert row.state == PullState.PENDING
    assert words in row.reason
    assert site.node.is_clean()
    assert set(site.node.instances()) <= set(list(site.archive.studies[uid])[:1])
    site.archive.missing = 0
    site.clock.now += 1000
    assert site.fetch(source) == 1
    assert set(site.node.instances()) == set(site.archive.studies[uid])


def test_fewer_instances_than_the_archive_claims_are_tried_again(site: Site, tmp_path: Path) -> None:
    uid = site.archive.add(tmp_path, "one")
    source = site.source()
    site.ask(source, uid, instances=3)
    assert site.fetch(source) == 0
    row = site.pulls.get("archive", uid)
    assert row is not None
    assert (row.state, "gave 2 of the 3 instances" in row.reason) == (PullState.PENDING, True)


def test_an_instance_that_the_node_refuses_does_not_hold_up_the_rest(site: Site, tmp_path: Path) -> None:
    uid = site.archive.add(tmp_path, "one")
    files = site.archive.studies[uid]
    broken = next(iter(files))
    files[broken] = b"no DICOM"
    source = site.source()
    site.ask(source, uid)
    assert site.fetch(source) == 1
    row = site.pulls.get("archive", uid)
    assert row is not None
    assert row.reason == "the node does not take 1 of 2 instances"
    assert set(site.node.instances()) == set(files) - {broken}


def test_what_is_here_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    uid = site.archive.add(tmp_path, "one")
    source = site.source()
    for _ in range(2):
        site.ask(source, uid)
        assert site.fetch(source) == 1
    assert sum(path.endswith("/file") for path in site.archive.asked) == 2


def test_a_study_that_is_asked_for_again_meanwhile_stays_pending(site: Site, tmp_path: Path) -> None:
    uid = site.archive.add(tmp_path, "one")
    source = site.source()
    site.ask(source, uid)
    row = site.pulls.due(source.name)[0]
    site.clock.now += 1
    site.ask(source, uid)
    assert not site.pulls.settle(row, PullState.DONE)
    assert site.states() == {uid: "pending"}


def test_changes_are_followed_from_the_remembered_point(site: Site, tmp_path: Path) -> None:
    source = site.source(follow=True)
    old = site.archive.add(tmp_path, "old")
    pull.look_for_new(site.services, source)
    assert (site.states(), site.pulls.point("archive")) == ({}, 2)  # from now on
    new = [site.archive.add(tmp_path, f"new{n}") for n in range(3)]
    site.archive.status = 503
    pull.look_for_new(site.services, source)
    assert site.pulls.point("archive") == 2
    site.archive.status = 200
    pull.look_for_new(site.services, source)
    assert (sorted(site.states()), site.pulls.point("archive")) == (sorted(new), 8)
    assert site.fetch(source) == 3
    pull.look_for_new(site.services, source)
    assert set(site.states().values()) == {"done"}
    assert old not in site.states()


def test_following_may_start_at_the_beginning_and_does_so_for_a_new_database(site: Site, tmp_path: Path) -> None:
    source = site.source(follow=True, follow_from="beginning")
    studies = [site.archive.add(tmp_path, f"study{n}") for n in range(2)]
    site.archive.first = 100
    pull.look_for_new(site.services, source)
    assert (sorted(site.states()), site.pulls.point("archive")) == (sorted(studies), 104)
    site.fetch(source)
    site.archive.first = 0  # the archive was made anew
    pull.look_for_new(site.services, source)
    assert site.pulls.point("archive") == 4
    assert set(site.states().values()) == {"pending"}


def test_a_crash_between_changes_and_point_loses_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = site.source(follow=True, follow_from="beginning")
    uid = site.archive.add(tmp_path, "one")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pulls, "set_point", die)
        with pytest.raises(KeyboardInterrupt):
            pull.look_for_new(site.services, source)
    assert (site.states(), site.pulls.point("archive")) == ({}, None)
    pull.look_for_new(site.services, source)
    assert site.states() == {uid: "pending"}


def test_a_scheduled_query_asks_once_for_what_does_not_change(site: Site, tmp_path: Path) -> None:
    source = site.source(kind="dicomweb", query_days=2, query_modalities=("MR",))
    uid = site.archive.add(tmp_path, "one")
    site.archive.claimed = 2
    pull.look_for_new(site.services, source)
    assert site.fetch(source) == 1
    pull.look_for_new(site.services, source)
    assert site.states() == {uid: "done"}
    site.archive.claimed = 3  # an image more
    pull.look_for_new(site.services, source)
    assert site.states() == {uid: "pending"}


def test_a_list_file_names_accessions_and_studies(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[dict[str, str]] = []

    def find(_: Source, __: str, query: Any) -> list[Any]:
        queries.append(dict(query.keys))
        return [] if query.AccessionNumber == "A3" else [pull.StudyFound(f"1.2.{len(queries)}", None)]

    monkeypatch.setattr(pull, "find_studies", find)
    listed = tmp_path / "list.txt"
    listed.write_text("﻿A2\r\n\n1.2.840.113619.1\n A3 \nA2\n", encoding="utf-8")
    assert pull.ask_source(site.services, "archive", ["A1"], ["1.2.3"], listed) == (4, ["A3"])
    assert queries == [
        {"AccessionNumber": "A1"},
        {"StudyInstanceUID": "1.2.3"},
        {"AccessionNumber": "A2"},
        {"StudyInstanceUID": "1.2.840.113619.1"},
        {"AccessionNumber": "A3"},
    ]
    assert set(site.states().values()) == {"pending"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("other", ["A1"], [], None), "no source is named 'other'; known: archive"),
        (("archive", [], [], None), "name the studies"),
        (("archive", ["*"], [], None), "a wildcard would match other studies too"),
        (("archive", [""], [], None), "would match the whole archive"),
        (("archive", [], [], Path("/no/such/list")), "--list /no/such/list: cannot be read"),
    ],
)
def test_what_cannot_be_asked_for(site: Site, arguments: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        pull.ask_source(site.services, *arguments)
    with site.pulls.engine.connect() as c:
        assert c.scalar(sa.text("SELECT count(*) FROM pulls")) == 0
