"""A worklist of single ultrasound images, each a study of its own: how fast does a worker get through?

    python benchmarks/worklist.py [--studies 500] [--frames 30] [--algorithm breast_us] [--device auto] [--json]

The studies (phantoms of 640 x 480 pixels) go through the node's worker pool: from the file to saved findings, without
encoding and delivery. First one alone and a clip (``--frames``), when all is warm, the best of three; then all studies,
as many waiting at once as in a node, with each taken by itself and with those that wait taken together. Weights that
are not installed are replaced by untrained ones of the same size (``weights`` says so): the time is the same, the
findings are nonsense.

Ends with 1 when a figure falls short: one image within 1 s, a frame of a clip within 0.1 s, 100 images/s on a GPU; or
when an outcome differs between alone and together. ``load`` is the machine's own: where it is above the number of
cores, other work shared it, and only processor seconds (``cpu``) tell something.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dicom_node import log  # noqa: E402
from dicom_node.algorithm import Findings  # noqa: E402
from dicom_node.run import worker  # noqa: E402
from dicom_node.run.findings_io import load_findings  # noqa: E402
from dicom_node.run.registry import DEFAULT_FOLDER, Algorithm, load_registry  # noqa: E402
from dicom_node.settings import RunSettings  # noqa: E402
from dicom_node.testing.phantom_ultrasound import Drawn, Lesion, Probe, dataset, draw  # noqa: E402
from dicom_node.testing.series import save  # noqa: E402

STUDIES: Final = 500
DIFFERENT: Final = 20
"""Pictures; drawing one takes longer than looking at it."""
CLIP_FRAMES: Final = 30
LONGEST_IMAGE_S: Final = 1.0
LONGEST_FRAME_S: Final = 0.1
FEWEST_A_SECOND_ON_GPU: Final = 100.0
FOLDS: Final = 5
OUTPUTS: Final = {"breast_us": 4, "thyroid_us": 6}
ABOUT: Final = {"breast_us": "US breast", "thyroid_us": "US thyroid"}


def algorithm_of(name: str, folder: Path) -> tuple[Algorithm, str]:
    """The algorithm, and where its weights are from."""
    if (DEFAULT_FOLDER / name / "algorithm.yaml").exists():
        return load_registry(DEFAULT_FOLDER)[name], "installed"
    import numpy as np

    from algorithms.ultrasound import looks, networks
    from algorithms.ultrasound.calibrate import Calibration
    from algorithms.ultrasound.train_jobs import write_manifest

    for part in ("ultrasound", name):
        shutil.copytree(DEFAULT_FOLDER / part, folder / part, ignore=shutil.ignore_patterns("models", "__pycache__"))
    models = folder / name / "models"
    models.mkdir()
    for fold in range(1, FOLDS + 1):
        networks.save_weights(networks.find_network(), models / f"find-{fold}.safetensors")
        networks.save_weights(networks.grade_network(OUTPUTS[name]), models / f"grade-{fold}.safetensors")
    Calibration((1.0, 0.0), 0.0, (0.3, 0.7)).save(models / "calibration.json")
    looks.Looks(np.zeros(9), np.eye(9), 1e9).save(models / "looks.json")
    write_manifest(folder / name)
    return load_registry(folder)[name], "untrained"


def written(folder: Path, key: str, drawn: Sequence[Drawn], about: str) -> Path:
    """A study of one image or clip."""
    regions = [(drawn[0].box, drawn[0].spacing)]
    ds = dataset([d.screen for d in drawn], regions=regions, key=key, header={"StudyDescription": about})
    return save(folder / key, [ds])[0]


def run(pool: worker.WorkerPool, algorithm: Algorithm, path: Path, out: Path) -> dict[str, Any]:
    """One study; exits where the algorithm failed."""
    answer = pool.run(algorithm, [path], out)
    if answer["outcome"] == "failed":
        raise SystemExit(f"the algorithm failed: {answer['reason']}")
    return answer


def worklist(pool: worker.WorkerPool, algorithm: Algorithm, paths: Sequence[Path], out: Path, size: int) -> float:
    """Seconds for all studies, of which up to ``size`` are taken together."""
    worker.TOGETHER = size
    began = time.perf_counter()
    with ThreadPoolExecutor(2 * size) as node:
        list(node.map(lambda k: run(pool, algorithm, paths[k], out / f"{size}" / f"{k}"), range(len(paths))))
    return time.perf_counter() - began


def same(first: Findings, second: Findings) -> bool:
    """Whether two findings are equal to the last bit."""
    if (first.label_map != second.label_map).any():
        return False
    return (first.measurements, first.notes, first.details) == (second.measurements, second.notes, second.details)


def measure(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    algorithm, weights = algorithm_of(chosen.algorithm, folder / "algorithms")
    about = ABOUT[chosen.algorithm]
    drawn = [draw(Probe(seed=k), Lesion(across=k % 7 - 3, echo=-20)) for k in range(min(DIFFERENT, chosen.studies))]
    paths = [written(folder, f"{k}", [drawn[k % len(drawn)]], about) for k in range(chosen.studies)]
    clip = written(folder, "clip", [drawn[k % len(drawn)] for k in range(chosen.frames)], about)
    pool = worker.WorkerPool(RunSettings(device=chosen.device, cpu_threads=chosen.threads))
    machine = pool.start()
    try:
        run(pool, algorithm, paths[0], folder / "warm")
        answers = [run(pool, algorithm, path, folder / "one") for path in paths[:3]]
        alone, cpu = (min(a[what] for a in answers) for what in ("seconds", "cpu_seconds"))
        clips = [run(pool, algorithm, clip, folder / "moving") for _ in range(3)]
        moving = {what: min(a[what] for a in clips) for what in ("seconds", "cpu_seconds")}
        seconds = {size: worklist(pool, algorithm, paths, folder / "out", size) for size in (1, chosen.together)}
    finally:
        pool.stop()
    outs = [[folder / "out" / f"{size}" / f"{k}" for size in seconds] for k in range(len(paths))]
    # what was not analysed has no findings: phantoms look unlike what trained networks know
    saved = [pair for pair in outs if all(p.exists() for p in pair)]
    equal = all(same(load_findings(a), load_findings(b)) for a, b in saved)
    equal = equal and all(a.exists() == b.exists() for a, b in outs)
    return {
        "device": machine["device"],
        "threads": machine["threads"],
        "weights": weights,
        "studies": len(paths),
        "analysed": len(saved),
        "one_image_s": round(alone, 3),
        "one_image_cpu_s": round(cpu, 3),
        "clip_frame_s": round(moving["seconds"] / chosen.frames, 4),
        "clip_frame_cpu_s": round(moving["cpu_seconds"] / chosen.frames, 4),
        "images_per_s_alone": round(len(paths) / seconds[1], 2),
        "images_per_s_together": round(len(paths) / seconds[chosen.together], 2),
        "together": chosen.together,
        "equal": equal,
        "load": round(os.getloadavg()[0], 1),
    }


def short(figures: dict[str, Any]) -> list[str]:
    """The figures that are not reached."""
    wrong = []
    if figures["one_image_s"] > LONGEST_IMAGE_S:
        wrong.append(f"one image takes {figures['one_image_s']} s, more than {LONGEST_IMAGE_S:g}")
    if figures["clip_frame_s"] > LONGEST_FRAME_S:
        wrong.append(f"a frame takes {figures['clip_frame_s']} s, more than {LONGEST_FRAME_S:g}")
    if figures["device"] != "cpu" and figures["images_per_s_together"] < FEWEST_A_SECOND_ON_GPU:
        wrong.append(f"{figures['images_per_s_together']} images/s, fewer than {FEWEST_A_SECOND_ON_GPU:g}")
    if not figures["equal"]:
        wrong.append("a study's findings depend on what went with it")
    return wrong


def main() -> int:
    """Measure, print, and compare with the figures to reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--frames", type=int, default=CLIP_FRAMES, help="of the clip")
    parser.add_argument("--algorithm", choices=tuple(OUTPUTS), default="breast_us")
    parser.add_argument("--together", type=int, default=worker.TOGETHER, help="how many a worker takes at once")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: torch's choice")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    log.configure()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(chosen, Path(folder))
    wrong = short(figures)
    if chosen.json:
        print(json.dumps({**figures, "reached": not wrong}, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name:22} {value}")
        for line in wrong:
            print(f"fell short: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
