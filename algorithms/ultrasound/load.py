"""What ``load`` of both algorithms does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from dicom_node.algorithm import Bundle, Clip, Findings, NotAnalysed

from . import analyse, calibrate, looks, networks, organ
from .report import Organ


class Function:
    """The function of a study's clips, or of several studies'."""

    def __init__(self, models: analyse.Models) -> None:
        self.models = models

    def __call__(self, clips: Sequence[Clip]) -> Findings:
        with self._in_full():
            return analyse.findings(clips, self.models)

    def together(self, studies: Sequence[Sequence[Clip]]) -> list[Findings | NotAnalysed]:
        with self._in_full():
            return analyse.together(studies, self.models)

    @contextmanager
    def _in_full(self) -> Iterator[None]:
        # Geometry and brightness need float32; networks.predict alone chooses bfloat16.
        with torch.inference_mode(), torch.autocast(self.models.device.type, enabled=False):
            yield


def loaded(bundle: Bundle, organ_of: Organ, outputs: int) -> Function:
    """The function with its weights ``find-*``, ``grade-*``, ``calibration``, ``looks`` and ``organ``, read once."""
    device = torch.device(bundle.device)

    def stage(name: str) -> list[networks.LesionNetwork]:
        def empty() -> networks.LesionNetwork:
            return networks.find_network() if name == "find" else networks.grade_network(outputs)

        files = [path for key, path in sorted(bundle.weights.items()) if key.startswith(f"{name}-")]
        return [networks.load_weights(empty(), path, bundle.device) for path in files]

    models = analyse.Models(
        organ_of,
        stage("find"),
        stage("grade"),
        calibrate.load(bundle.weights["calibration"]),
        looks.load(bundle.weights["looks"]),
        device,
        organ.load(bundle.weights["organ"], bundle.device) if "organ" in bundle.weights else None,
    )
    return Function(models)
