"""The receivers that are compared; those in Python run as ``python -m receiving.receivers KIND FOLDER PORT``."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

RECEIVERS: Final = (
    "storescp",
    "storescp_fork",
    "orthanc",
    "pynetdicom_decode",
    "pynetdicom_raw",
    "node_none",
    "node_association",
    "node_instance",
)
_START_SECONDS = 30.0


@contextlib.contextmanager
def running(receiver: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Start a receiver on a new folder; gives its process id and port, and ends it after."""
    folder.mkdir(parents=True)
    process, port = start(receiver, folder)
    try:
        yield process.pid, port
    except RuntimeError as e:
        said = folder.with_suffix(".log").read_text(errors="replace")[-2000:]
        raise SystemExit(f"{receiver} did not take everything: {e}\n{said}") from e
    finally:
        process.terminate()
        process.wait(timeout=30)
        _empty(folder)


def _empty(folder: Path) -> None:
    """Free the disk, but keep the files' names: some file systems are slow to make files where many were removed."""
    for file in folder.rglob("*"):
        if file.is_file():
            os.truncate(file, 0)


def start(receiver: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a receiver on a folder; returns when it listens, with its port."""
    port = free_port()
    # Both programs of DCMTK keep Nagle's algorithm on unless told otherwise.
    environment = {**os.environ, "TCP_NODELAY": "1"}
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        command = _command(receiver, folder, port)
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=Path(__file__).parent.parent
        )
    deadline = time.monotonic() + _START_SECONDS
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SystemExit(f"{receiver} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)
    return process, port


def _command(receiver: str, folder: Path, port: int) -> list[str]:
    if receiver == "storescp":
        return ["storescp", "--quiet", "-od", str(folder), str(port)]
    if receiver == "storescp_fork":
        return ["storescp", "--quiet", "--fork", "-od", str(folder), str(port)]
    if receiver == "orthanc":
        configuration = folder / "orthanc.json"
        configuration.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder),
                    "IndexDirectory": str(folder),
                    "DicomPort": port,
                    "DicomAlwaysAllowStore": True,
                    "DicomCheckCalledAet": False,
                    "RemoteAccessAllowed": False,
                    "HttpServerEnabled": False,
                    "Plugins": [],
                }
            )
        )
        return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(configuration)]
    return [sys.executable, "-m", "receiving.receivers", receiver, str(folder), str(port)]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _serve_node(durability: Any, folder: Path, port: int) -> Any:
    """The node's receiver as the node wires it, with its index."""
    import structlog

    from dicom_node.receive.dimse import Listener
    from dicom_node.receive.intake import Intake
    from dicom_node.settings import ReceiveSettings
    from dicom_node.store.files import FileStore
    from dicom_node.store.index import Index
    from dicom_node.store.tables import open_engine

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    settings = ReceiveSettings(port=port, durability=durability)
    store = FileStore(folder / "store", settings.disk_reserve_mb * 1_000_000, durability)
    intake = Intake(store, Index(open_engine(f"sqlite:///{folder / 'node.sqlite'}")))
    for problem in intake.reconcile():
        print(problem, file=sys.stderr)
    listener = Listener(settings, intake)
    listener.start()
    gc.freeze()
    return listener.stop


def _serve_pynetdicom(kind: str, folder: Path, port: int) -> Any:
    """A receiver as pynetdicom's documentation writes it, without Nagle's algorithm."""
    from pydicom.filewriter import write_file_meta_info
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    numbers = itertools.count()

    def opened(event: Any) -> None:
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def decode(event: Any) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        ds.save_as(folder / ds.SOPInstanceUID, enforce_file_format=True)
        return 0

    def raw(event: Any) -> int:
        with (folder / str(next(numbers))).open("wb") as f:
            f.write(b"\0" * 128 + b"DICM")
            write_file_meta_info(f, event.file_meta)
            f.write(event.request.DataSet.getvalue())
        return 0

    entity = AE("BENCHMARK")
    entity.supported_contexts = AllStoragePresentationContexts
    store = decode if kind == "decode" else raw
    handlers = [(evt.EVT_CONN_OPEN, opened), (evt.EVT_C_STORE, store)]
    entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    return entity.shutdown


if __name__ == "__main__":
    name, where, at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    library, _, variant = name.partition("_")
    stop = (_serve_node if library == "node" else _serve_pynetdicom)(variant, where, at)
    ended.wait()
    stop()
