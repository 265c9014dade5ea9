"""One study, from the last C-STORE response to all results confirmed by the PACS, less the quiet time.

    python benchmarks/one_study.py [head|heart] [--input FOLDER] [--runs 3] [--json]

Each run is a whole ``dicom-node demo``: its own node, worker and PACS, all on this machine; ``head`` sends the T1
phantom, ``heart`` a cine phantom of 12 slices at 20 phases. Ends with 1 when a figure falls short: on a CPU 25 s for a
head and 15 s for a heart, on a GPU 2 s and 1 s, and 4 GB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dicom_node.testing.phantom_cine import CineSequence, write_cine
from dicom_node.testing.phantom_head import write_head

LONGEST_SECONDS = {"head": {"cpu": 25.0, "gpu": 2.0}, "heart": {"cpu": 15.0, "gpu": 1.0}}
LARGEST_MB = 4096.0


def phantom(what: str, folder: Path) -> None:
    """Write the study that is sent where none is given."""
    if what == "head":
        write_head(folder)
    else:
        write_cine(folder, sequence=CineSequence(slices=12))


def one_run(what: str, source: Path | None) -> dict[str, Any]:
    """Run the demo once; returns seconds, its steps, and the peak memory of node and worker together."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        if source is None:
            source = Path(folder) / "in"
            phantom(what, source)
        command = [str(Path(sys.executable).parent / "dicom-node"), "demo", "--out", str(out), "--input", str(source)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((out / "summary.json").read_text())
    (study,) = summary["studies"]
    record = study["record"]
    return {
        "seconds": study["seconds_to_results"],
        "memory_mb": record["peak_memory_mb"] + summary["node_peak_memory_mb"],
        "device": "cpu" if record["machine"]["device"] == "cpu" else "gpu",
        "steps": {s["step"]: s["seconds"] for s in study["steps"]},
    }


def main() -> int:
    """Run, print, and compare with the figures to reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=tuple(LONGEST_SECONDS), default="head")
    parser.add_argument("--input", type=Path, help="a folder of DICOM files instead of the phantom")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    runs = [one_run(chosen.what, chosen.input) for _ in range(chosen.runs)]
    device = runs[0]["device"]
    seconds = statistics.median(r["seconds"] for r in runs)
    memory = max(r["memory_mb"] for r in runs)
    longest = LONGEST_SECONDS[chosen.what][device]
    reached = seconds <= longest and memory <= LARGEST_MB
    if chosen.json:
        answer = {"device": device, "median_seconds": seconds, "memory_mb": memory, "reached": reached, "runs": runs}
        print(json.dumps(answer, indent=2))
        return 0 if reached else 1
    for number, r in enumerate(runs, start=1):
        steps = ", ".join(f"{name} {value:.2f}" for name, value in r["steps"].items())
        print(f"run {number}: {r['seconds']:.2f} s, {r['memory_mb']:.0f} MB ({steps})")
    print(f"median {seconds:.2f} s (at most {longest:g}), {memory:.0f} MB (at most {LARGEST_MB:g})")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
