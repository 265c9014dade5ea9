"""All matches of a QIDO-RS search, whatever part of them a server gives at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest

from dicom_node.peer.http import HttpPeer
from dicom_node.peer.qido import search_all
from dicom_node.settings import Destination
from tests.web_server import Answer, Request, web_server

UIDS = [f"1.2.3.{n}" for n in range(1201)]
MORE = {"Warning": "299 archive: There are additional results that can be requested"}


def capped(most: int, warns: bool, *, offset: bool = True) -> Callable[[Request], Answer]:
    """A server that gives ``most`` matches at once, or as many as are asked for."""

    def answer(request: Request) -> Answer:
        query = parse_qs(urlsplit(request.path).query)
        first = int(query["offset"][0]) if offset else 0
        last = min(len(UIDS), first + min(most, int(query["limit"][0])))
        body = json.dumps([{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in UIDS[first:last]])
        return Answer(body=body.encode(), headers=MORE if warns and last < len(UIDS) else {})

    return answer


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        pytest.param(capped(5000, warns=False), 3, id="as many as are asked for"),
        pytest.param(capped(100, warns=True), 13, id="fewer than are asked for"),
    ],
)
def test_every_match_is_found_once(answer: Callable[[Request], Answer], requests: int) -> None:
    with web_server(answer) as server, _peer(server.url) as web:
        found = search_all(web, "/studies", {})
    assert [ds.StudyInstanceUID for ds in found] == UIDS
    assert len(server.requests) == requests


def test_a_server_that_knows_no_offset_is_not_asked_for_ever() -> None:
    with web_server(capped(500, warns=True, offset=False)) as server, _peer(server.url) as web:
        assert len(search_all(web, "/studies", {})) == 500
    assert len(server.requests) == 2


def _peer(url: str) -> HttpPeer:
    return HttpPeer(Destination(name="pacs", kind="stow", dicomweb_url=url, timeout_seconds=5), url)
