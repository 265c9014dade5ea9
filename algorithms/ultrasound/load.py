"""What ``load`` of both algorithms does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dicom_node.algorithm import Bundle, Clip, Findings

from . import analyse, calibrate, looks, networks
from .report import Organ

Function = Callable[[Sequence[Clip]], Findings]


def loaded(bundle: Bundle, organ: Organ, outputs: int) -> Function:
    """The function of a study's clips; weights ``find-*``, ``grade-*``, ``calibration`` and ``looks`` are read once."""
    device = torch.device(bundle.device)

    def stage(name: str) -> list[networks.LesionNetwork]:
        def empty() -> networks.LesionNetwork:
            return networks.find_network() if name == "find" else networks.grade_network(outputs)

        files = [path for key, path in sorted(bundle.weights.items()) if key.startswith(f"{name}-")]
        return [networks.load_weights(empty(), path, bundle.device) for path in files]

    models = analyse.Models(
        organ,
        stage("find"),
        stage("grade"),
        calibrate.load(bundle.weights["calibration"]),
        looks.load(bundle.weights["looks"]),
        device,
    )

    def function(clips: Sequence[Clip]) -> Findings:
        # Geometry and brightness need float32; networks.predict alone chooses bfloat16.
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            return analyse.findings(clips, models)

    return function
