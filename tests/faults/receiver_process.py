"""A receiver in a process of its own, whose memory can be measured: ``python -m tests.faults.receiver_process``.

Arguments: folder and settings (JSON, as ``tests.listening``). It writes its port, and ends when its input does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Receiver:
    """The process, as a test sees it."""

    process: subprocess.Popen[str]
    port: int
    folder: Path

    def peak_mb(self) -> float:
        """The largest resident memory so far, in 10^6 bytes."""
        return self._status("VmHWM") * 1024 / 1e6

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(f) for f in fields[11:13]) / os.sysconf("SC_CLK_TCK")

    def threads(self) -> int:
        """How many there are."""
        return self._status("Threads")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith(name))
        return int(line.split()[1])


@contextlib.contextmanager
def receiving(folder: Path, **settings: Any) -> Iterator[Receiver]:
    """Start one, and end it."""
    command = [sys.executable, "-m", "tests.faults.receiver_process", str(folder), json.dumps(settings)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            yield Receiver(process, int(process.stdout.readline()), folder)
            process.stdin.close()
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def main() -> None:
    import structlog

    from tests.listening import listening

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with listening(Path(sys.argv[1]), **json.loads(sys.argv[2])) as node:
        sys.stdout.write(f"{node.port}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
