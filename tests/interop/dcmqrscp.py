"""Starts DCMTK's dcmqrscp, an archive that speaks C-STORE, C-FIND, C-MOVE and C-GET, on a free port."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.conftest import need_program
from tests.interop.orthanc import free_port, listening, stop

AE_TITLE = "DCMQRSCP"

_CONFIGURATION = """
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
{hosts}
HostTable END
AETable BEGIN
{ae_title} {folder} RW (100, 1024mb) ANY
AETable END
"""


@contextlib.contextmanager
def dcmqrscp(movers: Mapping[str, int]) -> Iterator[int]:
    """The port of a running dcmqrscp.

    Args:
        movers: AE titles that it may send to, and their ports on 127.0.0.1.
    """
    program = need_program("dcmqrscp")
    with tempfile.TemporaryDirectory(prefix="dcmqrscp-") as folder:
        (Path(folder) / "store").mkdir()
        port = free_port()
        hosts = "\n".join(f"{name.lower()} = ({name}, 127.0.0.1, {at})" for name, at in movers.items())
        configuration = Path(folder) / "dcmqrscp.cfg"
        values = {"port": port, "hosts": hosts, "ae_title": AE_TITLE, "folder": Path(folder) / "store"}
        configuration.write_text(_CONFIGURATION.format(**values))
        process = subprocess.Popen([program, "-q", "-c", str(configuration)], cwd=folder)
        try:
            deadline = time.monotonic() + 20
            while not listening(port):
                assert process.poll() is None, "dcmqrscp ended"
                assert time.monotonic() < deadline, "dcmqrscp does not listen"
                time.sleep(0.05)
            yield port
        finally:
            stop(process)
