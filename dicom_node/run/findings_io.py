"""Findings on disk: written by the worker, read by the process that encodes them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dicom_node.algorithm import Box, Code, Curve, Findings, Frame, Measurement, Segment


def save_findings(findings: Findings, folder: Path) -> None:
    """Write ``findings.npz`` (the label map) and ``findings.json`` (all else) to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "findings.npz", label_map=findings.label_map)
    rest = {
        "segments": [asdict(s) for s in findings.segments],
        "measurements": [asdict(m) for m in findings.measurements],
        "notes": findings.notes,
        "details": findings.details,
        "frames": [asdict(f) for f in findings.frames],
        "curves": [asdict(c) for c in findings.curves],
        "key_planes": findings.key_planes,
        "shown": findings.shown,
    }
    (folder / "findings.json").write_text(json.dumps(rest, indent=1), encoding="utf-8")


def load_findings(folder: Path) -> Findings:
    """Read what :func:`save_findings` wrote."""
    with np.load(folder / "findings.npz", allow_pickle=False) as arrays:
        label_map = arrays["label_map"]
    rest = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    return Findings(
        label_map=label_map,
        segments=tuple(_segment(s) for s in rest["segments"]),
        measurements=tuple(_measurement(m) for m in rest["measurements"]),
        notes=tuple(rest["notes"]),
        details=rest["details"],
        frames=tuple(Frame(**f) for f in rest["frames"]),
        curves=tuple(_curve(c) for c in rest["curves"]),
        key_planes=tuple(rest["key_planes"]),
        shown=tuple(tuple(_box(b) for b in boxes) for boxes in rest["shown"]),
    )


def _segment(s: dict[str, Any]) -> Segment:
    codes = {"category": Code(**s["category"]), "type": Code(**s["type"])}
    return Segment(**{**s, **codes, "color": tuple(s["color"])})


def _measurement(m: dict[str, Any]) -> Measurement:
    limits = tuple(m["plausible"]) if m["plausible"] else None
    derivation = Code(**m["derivation"]) if m["derivation"] else None
    fixed = {"code": Code(**m["code"]), "site": Code(**m["site"]), "segments": tuple(m["segments"])}
    return Measurement(**{**m, **fixed, "plausible": limits, "derivation": derivation})


def _box(b: list[int]) -> Box:
    top, left, bottom, right = b
    return top, left, bottom, right


def _curve(c: dict[str, Any]) -> Curve:
    marks = tuple((int(index), str(label)) for index, label in c["marks"])
    return Curve(c["name"], c["unit"], tuple(c["times"]), tuple(c["values"]), marks)
