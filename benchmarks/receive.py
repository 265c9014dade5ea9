"""How fast the node receives, beside DCMTK's storescp, Orthanc and pynetdicom as it comes.

    python benchmarks/receive.py [--rounds 5] [--receivers NAME ...] [--json]
    python benchmarks/receive.py --huge [--json]

All receivers in turn on this machine, in each round on an empty folder; medians of the rounds. One and four DCMTK
``storescu`` send 200 MR images of 256 x 256, 200 CT images of 512 x 512 or 4 US clips of 60 MB each. Ends with 1 when a
figure falls short. With ``--json`` the answer is

    {receiver: {case: {"per_s", "mb_per_s", "cpu_s_per_gb", "rss_mb"}}}

which is instances and 10^6 bytes a second, the receiver's processor seconds per 10^9 bytes, its own largest memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from receiving.huge import measure_huge
from receiving.processes import cpu_seconds, forget_peak, peak_mb
from receiving.receivers import RECEIVERS, running
from receiving.studies import SETS, write

MODALITIES: Final = ("mr", "ct", "us")
SENDERS: Final = (1, 4)
CASES: Final = tuple(f"{m}_x{n}" for m in MODALITIES for n in SENDERS)
MOST_RSS_MB: Final = 200.0
LONGEST_ECHO_MS: Final = 20.0
LEAST_WITH_NAGLE: Final = 0.7

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]


def shortfalls(figures: Figures, echo_ms: float | None, with_nagle: float | None) -> list[str]:
    """Every figure that is not reached, a sentence each; of receivers that were not measured nothing is said.

    Args:
        figures: as ``--json`` gives them.
        echo_ms: the slowest C-ECHO while four senders run.
        with_nagle: what the node takes from a sender that leaves Nagle's algorithm on, as a part of the usual.
    """
    missed = []

    def compare(case: str, receiver: str, other: str, least: float) -> None:
        if receiver in figures and other in figures:
            ratio = figures[receiver][case]["per_s"] / figures[other][case]["per_s"]
            if ratio < least:
                missed.append(f"{case}: {receiver} takes {ratio:.2f} x {other}, at least {least:g} x is wanted")

    for case in CASES:
        compare(case, "node_none", "storescp", 1.0)
        compare(case, "node_none", "pynetdicom_decode", 5.0)
        compare(case, "node_none", "pynetdicom_raw", 4.0)
        compare(case, "node_none", "orthanc", 2.5 if case.endswith("x1") else 1.8)
        compare(case, "node_instance", "orthanc", 1.5)
        compare(case, "node_instance", "storescp", 0.8)
        if "node_none" in figures and "storescp" in figures:
            ours, theirs = (figures[r][case]["cpu_s_per_gb"] for r in ("node_none", "storescp"))
            if ours > theirs:
                missed.append(f"{case}: node_none takes {ours:.2f} CPU s/GB, at most storescp's {theirs:.2f} is wanted")
        for receiver in figures:
            rss = figures[receiver][case]["rss_mb"]
            if receiver.startswith("node_") and rss > MOST_RSS_MB:
                missed.append(f"{case}: {receiver} holds {rss:.0f} MB, at most {MOST_RSS_MB:g} is wanted")
    if echo_ms is not None and echo_ms > LONGEST_ECHO_MS:
        missed.append(f"C-ECHO beside four senders takes {echo_ms:.1f} ms, at most {LONGEST_ECHO_MS:g} is wanted")
    if with_nagle is not None and with_nagle < LEAST_WITH_NAGLE:
        missed.append(f"with Nagle's algorithm {with_nagle:.2f} of the usual, at least {LEAST_WITH_NAGLE:g} is wanted")
    return missed


def send(port: int, folders: list[Path], *, nodelay: bool = True) -> float:
    """Send folders with one storescu each, at once; returns the seconds until the last has ended."""
    environment = {**os.environ, "TCP_NODELAY": str(int(nodelay))}

    def one(folder: Path) -> None:
        command = ["storescu", "-R", "+sd", "127.0.0.1", str(port), str(folder)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")

    began = time.perf_counter()
    with ThreadPoolExecutor(len(folders)) as pool:
        list(pool.map(one, folders))
    return time.perf_counter() - began


def measure(receiver: str, data: Path, out: Path) -> dict[str, dict[str, float]]:
    """Every case with one receiver, each on sets that it has not seen."""
    figures = {}
    with running(receiver, out) as (pid, port):
        for case in CASES:
            modality, senders = case.split("_x")
            first, count = (0, 1) if senders == "1" else (1, 4)
            folders = [data / modality / str(n) for n in range(first, first + count)]
            sizes = [file.stat().st_size for folder in folders for file in folder.iterdir()]
            os.sync()  # what was written before is not this case's load
            forget_peak(pid)
            before = cpu_seconds(pid)
            seconds = send(port, folders)
            _settle(pid)
            figures[case] = {
                "per_s": len(sizes) / seconds,
                "mb_per_s": sum(sizes) / 1e6 / seconds,
                "cpu_s_per_gb": (cpu_seconds(pid) - before) / (sum(sizes) / 1e9),
                "rss_mb": peak_mb(pid),
            }
    return figures


def measure_manners(data: Path, out: Path) -> tuple[float, float]:
    """The slowest C-ECHO (ms) beside four senders, and the share that is left with a sender's Nagle's algorithm on."""
    with running("node_none", out / "echo") as (_, port):
        send(port, [data / "mr" / "0"])
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(send, port, [data / "ct" / str(n) for n in range(1, 5)])
            slowest = _slowest_echo(port, lambda: not busy.done())
            busy.result()
    seconds = []
    for nodelay in (True, False):
        with running("node_none", out / f"nagle {nodelay}") as (_, port):
            send(port, [data / "mr" / "0"])
            seconds.append(send(port, [data / "mr" / "1"], nodelay=nodelay))
    return slowest, seconds[0] / seconds[1]


def _slowest_echo(port: int, goes_on: Callable[[], bool]) -> float:
    from pydicom.uid import ExplicitVRLittleEndian

    from dicom_node.testing.bytes_peer import BytesPeer, c_echo_rq, p_data

    slowest = 0.0
    with BytesPeer("127.0.0.1", port) as peer:
        peer.associate([(1, "1.2.840.10008.1.1", str(ExplicitVRLittleEndian))])
        while goes_on():
            began = time.perf_counter()
            peer.send(p_data(1, c_echo_rq(1), command=True))
            peer.read_status()
            slowest = max(slowest, time.perf_counter() - began)
            time.sleep(0.02)
        peer.release()
    return slowest * 1000


def _settle(pid: int) -> None:
    """Wait until the receiver has done what it does behind its answers."""
    before = -1.0
    while (now := cpu_seconds(pid)) != before:
        before = now
        time.sleep(0.2)


def medians(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Case by case and figure by figure."""
    return {
        case: {name: round(statistics.median(r[case][name] for r in rounds), 3) for name in rounds[0][case]}
        for case in rounds[0]
    }


def table(figures: Figures) -> str:
    """The figures for people: per case images (clips: MB) a second, ratio to storescp, CPU s/GB, memory."""
    lines = ["| receiver | " + " | ".join(CASES) + " |", "|---" * (len(CASES) + 1) + "|"]
    for receiver, cases in figures.items():
        cells = []
        for case in CASES:
            value = cases[case]["mb_per_s" if case.startswith("us") else "per_s"]
            ratio = ""
            if "storescp" in figures:
                ratio = f" ({cases[case]['per_s'] / figures['storescp'][case]['per_s']:.2f})"
            cells.append(f"{value:.0f}{ratio}, {cases[case]['cpu_s_per_gb']:.1f} s/GB, {cases[case]['rss_mb']:.0f} MB")
        lines.append(f"| {receiver} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def huge(*, as_json: bool) -> int:
    """Receive an object of 2 GB, print, and compare with the memory that it may take."""
    with tempfile.TemporaryDirectory(prefix="receive-") as folder:
        figures = measure_huge("node_instance", Path(folder) / "out")
    if as_json:
        print(json.dumps(figures, indent=2))
    missed = False
    for case, f in figures.items():
        if not as_json:
            print(f"2 GB, {case}: {f['mb_per_s']:.0f} MB a second, {f['rss_mb']:.0f} MB of memory")
        if f["rss_mb"] > MOST_RSS_MB:
            missed = True
            print(f"missed: {case}: {f['rss_mb']:.0f} MB, at most {MOST_RSS_MB:g} is wanted", file=sys.stderr)
    return int(missed)


def main() -> int:
    """Run, print, and compare with the figures to reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--receivers", nargs="+", choices=RECEIVERS, default=RECEIVERS)
    parser.add_argument("--huge", action="store_true", help="only an object of 2 GB, with a length and without")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.huge:
        return huge(as_json=chosen.json)
    rounds: dict[str, list[Any]] = {receiver: [] for receiver in chosen.receivers}
    manners: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="receive-") as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        for modality in MODALITIES:
            for number in range(SETS):
                write(data / modality / str(number), modality, number)
        for number in range(chosen.rounds):
            for receiver in chosen.receivers:
                rounds[receiver].append(measure(receiver, data, out / f"{number} {receiver}"))
                print(f"round {number + 1}: {receiver}", file=sys.stderr)
            if "node_none" in chosen.receivers:
                manners.append(measure_manners(data, out / f"{number} manners"))
    figures = {receiver: medians(measured) for receiver, measured in rounds.items()}
    echo, nagle = (statistics.median(m[n] for m in manners) if manners else None for n in (0, 1))
    missed = shortfalls(figures, echo, nagle)
    if chosen.json:
        print(json.dumps(figures, indent=2))
    else:
        print(table(figures))
        print("images a second (us: MB a second), in brackets as a part of storescp's; CPU seconds per GB; peak memory")
        if manners:
            print(f"slowest C-ECHO beside four senders {echo:.1f} ms; with Nagle's algorithm {nagle:.2f} of the usual")
    for sentence in missed:
        print(f"missed: {sentence}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
