"""One head, from the last C-STORE response to both results confirmed by the PACS, less the quiet time.

    python benchmarks/one_head.py [--input FOLDER] [--runs 3] [--json]

Each run is a whole ``dicom-node demo``: its own node, worker and PACS, all on this machine. Ends with 1 when a figure
falls short: 25 s and 4 GB on a CPU, 2 s on a GPU.
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

LONGEST_SECONDS = {"cpu": 25.0, "gpu": 2.0}
LARGEST_MB = 4096.0


def one_run(source: Path | None) -> dict[str, Any]:
    """Run the demo once; returns seconds, its steps, and the peak memory of node and worker together."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [str(Path(sys.executable).parent / "dicom-node"), "demo", "--out", str(out)]
        subprocess.run([*command, *(["--input", str(source)] if source else [])], check=True, stdout=subprocess.DEVNULL)
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
    parser.add_argument("--input", type=Path, help="a folder of DICOM files instead of the phantom")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    runs = [one_run(chosen.input) for _ in range(chosen.runs)]
    device = runs[0]["device"]
    seconds = statistics.median(r["seconds"] for r in runs)
    memory = max(r["memory_mb"] for r in runs)
    reached = seconds <= LONGEST_SECONDS[device] and memory <= LARGEST_MB
    if chosen.json:
        answer = {"device": device, "median_seconds": seconds, "memory_mb": memory, "reached": reached, "runs": runs}
        print(json.dumps(answer, indent=2))
        return 0 if reached else 1
    for number, r in enumerate(runs, start=1):
        steps = ", ".join(f"{name} {value:.2f}" for name, value in r["steps"].items())
        print(f"run {number}: {r['seconds']:.2f} s, {r['memory_mb']:.0f} MB ({steps})")
    print(f"median {seconds:.2f} s (at most {LONGEST_SECONDS[device]:g}), {memory:.0f} MB (at most {LARGEST_MB:g})")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
