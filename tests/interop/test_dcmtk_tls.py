"""DCMTK's storescu and storescp with TLS, both ways."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from structlog.testing import capture_logs

from dicom_node.deliver.dimse import send
from dicom_node.errors import PeerError
from dicom_node.peer.association import associate
from dicom_node.settings import Destination, Settings, TlsSettings
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.certificates import Authority, Identity
from tests.conftest import need_program
from tests.interop.orthanc import free_port, stop
from tests.interop.orthanc import listening as is_listening
from tests.listening import Listening, listening, wait_for

COUNT = 3


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    pixels = np.random.default_rng(0).integers(0, 4096, (COUNT, 256, 256), np.uint16)
    return save(tmp_path / "in", slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))))


def _storescu(port: int, files: list[Path], *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [need_program("storescu"), *options, "127.0.0.1", port, *files]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, check=False)


def _shows(identity: Identity) -> list[str | Path]:
    return ["+tls", identity.private_key_file, identity.certificate_file, "+cf", identity.authorities_file]


@pytest.mark.parametrize("reader", ["fast", "stock"])
@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"])
@pytest.mark.parametrize("is_rsa", [False, True])
def test_storescu_by_tls(
    tmp_path: Path, authority: Authority, files: list[Path], reader: str, profile: str, is_rsa: bool
) -> None:
    tls = TlsSettings(**authority.issue("node", is_rsa=is_rsa).settings())
    client = authority.issue("client", is_rsa=is_rsa)
    with listening(tmp_path / "node", reader=reader, tls=tls, port=None, tls_port=0) as node:
        done = _storescu(node.port, files, *_shows(client), profile)
        assert done.returncode == 0, done.stdout + done.stderr
        stored = node.instances()
        assert len(stored) == COUNT
        for original in map(pydicom.dcmread, files):
            assert pydicom.dcmread(node.files.path(stored[original.SOPInstanceUID].path)) == original
        assert node.is_clean()


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ("anonymous", "it showed no certificate"),
        ("expired", "certificate has expired"),
        ("another authority", "add its authority's certificate to tls.authorities_file"),
        ("no TLS", "it does not speak TLS"),
    ],
)
def test_storescu_that_is_not_let_in(
    tmp_path: Path, authority: Authority, files: list[Path], who: str, reason: str
) -> None:
    tls = TlsSettings(**authority.issue("node").settings())
    client = authority.issue("client", days=-1 if who == "expired" else 5)
    if who == "another authority":
        other = Authority(tmp_path / "other", "other").issue("client")
        client = Identity(other.certificate_file, other.private_key_file, authority.file)
    options = _shows(client)
    if who == "no TLS":
        options = []
    elif who == "anonymous":
        options = ["+tla", "+cf", client.authorities_file]
    with listening(tmp_path / "node", tls=tls, port=None, tls_port=0) as node, capture_logs() as logs:
        assert _storescu(node.port, files, *options).returncode != 0
        assert wait_for(lambda: any(reason in e.get("reason", "") for e in logs)), logs
        assert node.instances() == {}


def test_storescu_does_not_take_another_for_the_node(tmp_path: Path, authority: Authority, files: list[Path]) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger").issue("node")
    tls = TlsSettings(**{**stranger.settings(), "authorities_file": authority.file})
    with listening(tmp_path / "node", tls=tls, port=None, tls_port=0) as node, capture_logs() as logs:
        assert _storescu(node.port, files, *_shows(authority.issue("client"))).returncode != 0
        assert wait_for(lambda: any("authority of the node's certificate" in e.get("reason", "") for e in logs)), logs


def test_storescu_by_tls_at_the_plain_port(tmp_path: Path, authority: Authority, files: list[Path]) -> None:
    with listening(tmp_path / "node") as node, capture_logs() as logs:
        assert _storescu(node.port, files, *_shows(authority.issue("client"))).returncode != 0
        assert wait_for(lambda: any(e.get("to_admit") == "call receive.tls_port there" for e in logs))


@contextlib.contextmanager
def _storescp(folder: Path, *options: str | Path) -> Iterator[int]:
    port = free_port()
    folder.mkdir()
    command = [need_program("storescp"), "-od", folder, *options, port]
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not is_listening(port):
            assert process.poll() is None
            assert time.monotonic() < deadline, "storescp does not listen"
            time.sleep(0.02)
        yield port
    finally:
        stop(process)


def _destination(port: int, identity: Identity, host: str = "127.0.0.1", *, check: bool = True) -> Destination:
    values = {"name": "pacs", "ae_title": "PACS", "host": host, "port": port, "tls": True, "tls_check_host": check}
    settings = Settings(destinations=[values], tls=identity.settings())  # type: ignore[arg-type]
    return settings.destinations[0]


def test_sending_by_tls(tmp_path: Path, authority: Authority, files: list[Path]) -> None:
    with _storescp(tmp_path / "out", *_shows(authority.issue("pacs"))) as port:
        outcome = send(_destination(port, authority.issue("node")), "DICOMNODE", files)
    assert list(outcome.values()) == [""] * COUNT
    assert len(list((tmp_path / "out").iterdir())) == COUNT


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("another authority", "its certificate is refused: .*add its authority's certificate to tls.authorities_file"),
        ("expired", "its certificate is refused: certificate has expired"),
        ("another host", "its certificate is refused: .*mismatch.*tls_check_host: false"),
        ("no TLS", "does it speak TLS"),
        ("not believed", "tls.certificate_file|does not know the authority"),
        ("nobody", "no connection: is it running"),
        ("no file", "tls.private_key_file: .* cannot be read"),
    ],
)
def test_sending_by_tls_that_fails(
    tmp_path: Path, authority: Authority, files: list[Path], case: str, words: str
) -> None:
    pacs = authority.issue(
        "pacs", host="10.1.2.3" if case == "another host" else "127.0.0.1", days=-1 if case == "expired" else 5
    )
    node = authority.issue("node")
    if case == "another authority":
        other = Authority(tmp_path / "other", "other").issue("pacs")
        pacs = Identity(other.certificate_file, other.private_key_file, authority.file)
    if case == "not believed":
        pacs = Identity(pacs.certificate_file, pacs.private_key_file, Authority(tmp_path / "third", "third").file)
    if case == "no file":
        node.private_key_file.unlink()
    options = [] if case == "no TLS" else _shows(pacs)
    with _storescp(tmp_path / "out", *options) as port:
        with pytest.raises(PeerError, match=words) as caught:
            send(_destination(free_port() if case == "nobody" else port, node), "DICOMNODE", files)
        assert caught.value.retryable
        if case == "another host":
            assert set(send(_destination(port, node, check=False), "DICOMNODE", files).values()) == {""}


def test_node_to_node_by_tls(tmp_path: Path, authority: Authority, files: list[Path]) -> None:
    """And with what the PACS shows anew, the next association uses it."""
    tls = TlsSettings(**authority.issue("receiver").settings())
    with listening(tmp_path / "node", tls=tls, port=None, tls_port=0) as receiver:
        destination = _destination(receiver.port, authority.issue("node"))
        assert set(send(destination, "DICOMNODE", files).values()) == {""}
        assert _holds(receiver)
        other = Authority(tmp_path / "other", "other")
        new = other.issue("receiver")
        for at in ("certificate_file", "private_key_file"):
            getattr(tls, at).write_bytes(getattr(new, at).read_bytes())
        with (
            pytest.raises(PeerError, match="its certificate is refused"),
            associate(destination, "X", [("1.2", "1.3")]),
        ):
            pass


def _holds(node: Listening) -> bool:
    return len(node.instances()) == COUNT
