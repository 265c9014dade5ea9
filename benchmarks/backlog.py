"""How the node fares with thousands of studies: does the ten-thousandth take longer than the first?

    python benchmarks/backlog.py [--studies 10000] [--json]

Studies of a T1 volume and a localizer, with headers as scanners write them and small pixels, are sent over an
association each. They are received, indexed, found complete after a short quiet time, and routed; the runs that this
makes wait behind a model that never ends, so that at last the queue holds one for each study. No more than some tens of
studies are between sender and route at any time. Then the node is killed, and started again on all of it.

Printed are, for each tenth of the studies, seconds and the node's processor seconds for one study. Ends with 1 when the
last tenth takes longer than the first by more than a quarter, the start more than 10 s, or the node holds more than
300 MB. With ``--json``:

    {"studies", "tenths": [{"seconds", "cpu_seconds", "rss_mb", "load"}], "restart_seconds", "restart_cpu_seconds",
     "rss_mb", "list_seconds"}

``load`` is the machine's own, whoever caused it: where it is above the number of cores, seconds tell little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import yaml
from receiving.processes import cpu_seconds, peak_mb, rss_mb
from receiving.receivers import free_port
from receiving.studies import head_study

STUDIES: Final = 10_000
IN_FLIGHT: Final = 40
QUIET_SECONDS: Final = 0.3
MOST_GROWTH: Final = 1.25
LONGEST_START_SECONDS: Final = 10.0
MOST_RSS_MB: Final = 300.0
_PATIENCE_SECONDS: Final = 300.0

ROUTES: Final = """
rules:
  - name: heads
    algorithm: threshold_demo
    when: {Modality: MR, body_part: brain, series_kind: [t1_volume, t1_slices, volume]}
    deliver_to: [pacs]
"""


class BacklogNode:
    """The process of ``receiving.backlog_node``."""

    def __init__(self, folder: Path, port: int) -> None:
        self._log = folder / "node.log"
        self._log.write_bytes(b"")
        began = time.perf_counter()
        with self._log.open("wb") as output:
            command = [sys.executable, "-m", "receiving.backlog_node", str(folder / "node.yaml")]
            self._process = subprocess.Popen(command, stdout=output, stderr=output, cwd=Path(__file__).parent)
        self.pid = self._process.pid
        self.port = port
        self._lines = self._follow()
        for event in self._lines:
            if event == "node_started":
                break
        self.start_seconds = time.perf_counter() - began
        self.start_cpu_seconds = cpu_seconds(self.pid)

    def routed(self) -> Iterator[None]:
        """One turn for each study that was routed, when it was."""
        for event in self._lines:
            if event == "study_routed":
                yield

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def _follow(self) -> Iterator[str]:
        """The events of the node's log as they come."""
        with self._log.open() as lines:
            rest, deadline = "", time.monotonic() + _PATIENCE_SECONDS
            while True:
                rest += lines.readline()
                if rest.endswith("\n"):
                    line, rest, deadline = rest, "", time.monotonic() + _PATIENCE_SECONDS
                    if line.startswith("{"):
                        yield json.loads(line)["event"]
                elif self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the node does not go on:\n{self._log.read_text()[-2000:]}")
                else:
                    time.sleep(0.005)


def configure(folder: Path, port: int) -> None:
    """Write the node's settings and rules."""
    (folder / "routes.yaml").write_text(ROUTES)
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 4242}
    values = {
        "data_dir": str(folder / "data"),
        "receive": {"port": port},
        "complete": {"quiet_seconds": QUIET_SECONDS},
        "destinations": [pacs],
    }
    (folder / "node.yaml").write_text(yaml.safe_dump(values))


def send_study(port: int, number: int) -> None:
    """Send one study over an association of its own."""
    from dicom_node.testing.bytes_peer import BytesPeer

    instances = head_study(number)
    with BytesPeer("127.0.0.1", port, timeout=_PATIENCE_SECONDS) as peer:
        peer.associate([(1, instances[0].sop_class, "1.2.840.10008.1.2.1")])
        for i in instances:
            status, comment = peer.store(1, i.sop_class, i.sop_instance, i.dataset)
            if status:
                raise SystemExit(f"study {number} was refused: 0x{status:04X} {comment}")
        peer.release()


def fill(node: BacklogNode, studies: int) -> list[dict[str, float]]:
    """Send all studies and wait until they are routed; seconds for a study in each tenth."""
    tenths = []
    routed = node.routed()
    with ThreadPoolExecutor(2) as senders:
        sending = [senders.submit(send_study, node.port, n) for n in range(IN_FLIGHT)]
        began, cpu = time.perf_counter(), cpu_seconds(node.pid)
        for done in range(1, studies + 1):
            next(routed)
            # To the end: the last tenth is to meet what the first did.
            sending.append(senders.submit(send_study, node.port, len(sending)))
            if done % (studies // 10) == 0:
                now, cpu_now = time.perf_counter(), cpu_seconds(node.pid)
                count = studies // 10
                tenths.append(
                    {
                        "seconds": (now - began) / count,
                        "cpu_seconds": (cpu_now - cpu) / count,
                        "rss_mb": rss_mb(node.pid),
                        "load": os.getloadavg()[0],
                    }
                )
                print(f"{done} studies: {tenths[-1]}", file=sys.stderr)
                began, cpu = now, cpu_now
        for sent in sending:
            sent.result()
    return tenths


def seconds_to_list(folder: Path) -> float:
    """How long ``dicom-node studies`` takes."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "dicom_node.cli", "studies", "--json", "--config", str(folder / "node.yaml")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def shortfalls(figures: Mapping[str, Any]) -> list[str]:
    """Every figure that is not reached, a sentence each."""
    missed = []
    first, last = figures["tenths"][0], figures["tenths"][-1]
    for name, words in (("seconds", "time"), ("cpu_seconds", "processor time")):
        growth = last[name] / first[name]
        if growth > MOST_GROWTH:
            missed.append(
                f"the last tenth takes {growth:.2f} x the {words} of the first, at most {MOST_GROWTH} x is wanted"
            )
    if figures["restart_seconds"] > LONGEST_START_SECONDS:
        missed.append(f"it starts in {figures['restart_seconds']:.1f} s, at most {LONGEST_START_SECONDS:g} s is wanted")
    if figures["rss_mb"] > MOST_RSS_MB:
        missed.append(f"it holds {figures['rss_mb']:.0f} MB, at most {MOST_RSS_MB:g} is wanted")
    return missed


def measure(folder: Path, studies: int) -> dict[str, Any]:
    """Fill a node, kill it, start it again."""
    port = free_port()
    configure(folder, port)
    node = BacklogNode(folder, port)
    try:
        tenths = fill(node, studies)
        rss = peak_mb(node.pid)
    finally:
        node.kill()
    node = BacklogNode(folder, port)
    try:
        send_study(port, studies + IN_FLIGHT)  # it serves
        figures = {
            "studies": studies,
            "tenths": tenths,
            "restart_seconds": node.start_seconds,
            "restart_cpu_seconds": node.start_cpu_seconds,
            "rss_mb": max(rss, peak_mb(node.pid)),
            "list_seconds": seconds_to_list(folder),
        }
    finally:
        node.kill()
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = ["| studies | ms for one | CPU ms for one | MB held | load |", "|---|---|---|---|---|"]
    step = figures["studies"] // 10
    for n, tenth in enumerate(figures["tenths"]):
        cells = [f"{n * step + 1} to {(n + 1) * step}"]
        cells += [f"{1000 * tenth[name]:.0f}" for name in ("seconds", "cpu_seconds")]
        cells += [f"{tenth['rss_mb']:.0f}", f"{tenth['load']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    lines.append(
        f"start with all of them after a kill {figures['restart_seconds']:.1f} s "
        f"({figures['restart_cpu_seconds']:.1f} CPU s); "
        f"largest memory {figures['rss_mb']:.0f} MB; "
        f"`dicom-node studies --json` {figures['list_seconds']:.1f} s"
    )
    return "\n".join(lines)


def main() -> int:
    """Run, print, and compare with the figures to reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.studies < 10:
        parser.error("--studies must be at least 10")
    with tempfile.TemporaryDirectory(prefix="backlog-") as folder:
        figures = measure(Path(folder), chosen.studies - chosen.studies % 10)
    print(json.dumps(figures, indent=2) if chosen.json else table(figures))
    missed = shortfalls(figures)
    for sentence in missed:
        print(f"missed: {sentence}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
