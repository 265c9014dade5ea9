"""HTTP to another system: credentials, certificates, and the words for whatever goes wrong."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from dicom_node.errors import PeerError
from dicom_node.peer.http import HttpPeer
from dicom_node.settings import Destination
from tests.web_server import Answer, Request, WebServer, web_server


def peer(server: WebServer | None = None, **more: Any) -> HttpPeer:
    url = server.url if server else more.pop("url")
    values = {"name": "pacs", "kind": "stow", "dicomweb_url": url, "timeout_seconds": 5, **more}
    return HttpPeer(Destination(**values), url)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made


def context(certificate: trustme.LeafCert, clients: trustme.CA | None = None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(made)
    if clients is not None:
        clients.configure_trust(made)
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def test_basic_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER_NAME", "node")
    monkeypatch.setenv("PASS", "söcret")
    with web_server(lambda _: Answer()) as server, peer(server, username_env="USER_NAME", password_env="PASS") as web:
        web.request("GET", "/x")
    given = base64.b64decode(server.requests[0].headers["authorization"].removeprefix("Basic "))
    assert given in ("node:söcret".encode("latin-1"), "node:söcret".encode())


@contextlib.contextmanager
def token_server(monkeypatch: pytest.MonkeyPatch, *tokens: str, accepted: str, lasts: float = 3600) -> Iterator[Any]:
    """A resource that wants one token, and a token service that gives these, one after another."""
    monkeypatch.setenv("CLIENT_ID", "node")
    monkeypatch.setenv("CLIENT_SECRET", "s3cret")
    left = list(tokens)

    def answer(request: Request) -> Answer:
        if request.path == "/token":
            return Answer(body=json.dumps({"access_token": left.pop(0), "expires_in": lasts}).encode())
        return Answer(200 if request.headers.get("authorization") == f"Bearer {accepted}" else 401)

    with web_server(answer) as server:
        keys = {"client_id_env": "CLIENT_ID", "client_secret_env": "CLIENT_SECRET", "scope": "dicom.write"}
        with peer(server, token_url=f"{server.url}/token", **keys) as web:
            yield server, web


def test_a_token_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with token_server(monkeypatch, "one", accepted="one") as (server, web):
        for _ in range(3):
            web.request("GET", "/x")
    asked, *rest = server.requests
    assert (asked.path, asked.body) == ("/token", b"grant_type=client_credentials&scope=dicom.write")
    assert asked.headers["authorization"] == "Basic " + base64.b64encode(b"node:s3cret").decode()
    assert [r.path for r in rest] == ["/x"] * 3


def test_a_token_that_is_about_to_run_out_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    with token_server(monkeypatch, "one", "one", accepted="one", lasts=0) as (server, web):
        web.request("GET", "/x")
        web.request("GET", "/x")
    assert [r.path for r in server.requests] == ["/token", "/x", "/token", "/x"]


def test_a_token_that_was_withdrawn_is_renewed_and_the_body_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with token_server(monkeypatch, "old", "new", accepted="new") as (server, web):
        web.request("POST", "/x", body=lambda: b"ab")
    assert [(r.path, r.body) for r in server.requests if r.path == "/x"] == [("/x", b"ab")] * 2


def test_a_client_that_is_refused_gets_no_second_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        token_server(monkeypatch, "old", "older", accepted="new") as (_, web),
        pytest.raises(PeerError, match="refused GET /x with HTTP 401") as caught,
    ):
        web.request("GET", "/x")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("answer", "words", "retryable"),
    [
        (Answer(401), "gave no token: HTTP 401", False),
        (Answer(503), "gave no token: HTTP 503", True),
        (Answer(200, b"<html>"), "none of OAuth2", True),
        (Answer(200, b"[]"), "none of OAuth2", True),
    ],
)
def test_a_token_that_is_not_given(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, words: str, retryable: bool
) -> None:
    monkeypatch.setenv("CLIENT_ID", "node")
    with web_server(lambda _: answer) as server:
        keys = {"token_url": f"{server.url}/token", "client_id_env": "CLIENT_ID", "client_secret_env": "CLIENT_ID"}
        with peer(server, **keys) as web, pytest.raises(PeerError, match=words) as caught:
            web.request("GET", "/x")
    assert caught.value.retryable is retryable


@pytest.mark.parametrize(("status", "retryable"), [(500, True), (503, True), (429, True), (507, True), (403, False)])
def test_refusals(status: int, retryable: bool) -> None:
    with (
        web_server(lambda _: Answer(status)) as server,
        peer(server) as web,
        pytest.raises(PeerError, match=f"refused GET /patients with HTTP {status}") as caught,
    ):
        web.request("GET", "/patients?PatientID=4711")
    assert caught.value.retryable is retryable
    assert "4711" not in str(caught.value)


def test_a_redirect_is_not_followed() -> None:
    with (
        web_server(lambda _: Answer(307, headers={"Location": "http://127.0.0.1:9/"})) as server,
        peer(server) as web,
        pytest.raises(PeerError, match="a redirect: set the URL"),
    ):
        web.request("POST", "/x", body=lambda: b"object")
    assert len(server.requests) == 1


def test_a_half_answer_is_told() -> None:
    with web_server(lambda _: Answer(200, b"half", missing=1000)) as server, peer(server) as web:
        answer = web.request("GET", "/x", stream=True)
        with pytest.raises(PeerError, match="broke off") as caught:
            list(web.pieces(answer))
    assert caught.value.retryable


def test_silence_is_told() -> None:
    def stall(_: Request) -> Answer:
        server.stalled.wait(20)
        return Answer()

    with (
        web_server(stall) as server,
        peer(server, timeout_seconds=0.2) as web,
        pytest.raises(PeerError, match=r"did not answer within 0\.2 s") as caught,
    ):
        web.request("GET", "/x")
    assert caught.value.retryable


def test_a_slow_link_is_no_silence() -> None:
    slow = Answer(200, b"twelve bytes", pause=0.1)
    with web_server(lambda _: slow) as server, peer(server, timeout_seconds=0.6) as web:
        started = time.monotonic()
        answer = web.request("GET", "/x", stream=True)
        assert b"".join(web.pieces(answer)) == slow.body
        assert time.monotonic() - started > web.peer.timeout_seconds


def test_a_trusted_server_and_a_trusted_client(authority: trustme.CA, tmp_path: Path) -> None:
    own = authority.issue_cert("node.example")
    own.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "node.pem"))
    tls = context(authority.issue_cert("127.0.0.1"), clients=authority)
    with web_server(lambda _: Answer(), tls) as server:
        with peer(server, ca_file=tmp_path / "ca.pem", client_certificate=tmp_path / "node.pem") as web:
            assert web.request("GET", "/x").status_code == 200
        with peer(server, ca_file=tmp_path / "ca.pem") as web, pytest.raises(PeerError) as caught:
            web.request("GET", "/x")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("name", "not_after", "words"),
    [
        ("127.0.0.1", datetime(2020, 1, 2, tzinfo=UTC), "certificate has expired"),
        ("elsewhere.example", None, "IP address mismatch"),
    ],
)
def test_a_certificate_that_is_not_valid(
    authority: trustme.CA, tmp_path: Path, name: str, not_after: datetime | None, words: str
) -> None:
    before = datetime(2020, 1, 1, tzinfo=UTC)
    certificate = authority.issue_cert(name, not_before=before, not_after=not_after)
    with (
        web_server(lambda _: Answer(), context(certificate)) as server,
        peer(server, ca_file=tmp_path / "ca.pem") as web,
        pytest.raises(PeerError, match=f"no trusted connection: its certificate is not valid: .*{words}") as caught,
    ):
        web.request("GET", "/x")
    assert caught.value.retryable  # whoever renews it need not touch the node


def test_a_certificate_of_an_unknown_authority(authority: trustme.CA) -> None:
    with (
        web_server(lambda _: Answer(), context(authority.issue_cert("127.0.0.1"))) as server,
        peer(server) as web,
        pytest.raises(PeerError, match="unable to get local issuer certificate"),
    ):
        web.request("GET", "/x")


def test_a_file_without_certificates(authority: trustme.CA, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    with (
        web_server(lambda _: Answer(), context(authority.issue_cert("127.0.0.1"))) as server,
        peer(server, ca_file=tmp_path / "empty.pem") as web,
        pytest.raises(PeerError, match="no certificate"),
    ):
        web.request("GET", "/x")


def test_nobody_listens() -> None:
    with web_server(lambda _: Answer()) as server:
        url = server.url
    with peer(url=url) as web, pytest.raises(PeerError, match="no connection: is it running") as caught:
        web.request("GET", "/x")
    assert caught.value.retryable
