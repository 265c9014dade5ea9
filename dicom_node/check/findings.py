"""The findings that results were made of, and whether the report and the segments say the same.

A number that is wrong in the report and right for no mask (an index, a thickness) can be told by nothing else, nor can
labels that were exchanged in SEG and SR alike.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicom_node.algorithm import Code, Findings
from dicom_node.check.change import CHANGES
from dicom_node.check.objects import CodeKey, PlaneKey, ResultFile, code_of, content, first_item, numbers, text
from dicom_node.check.reading import Item
from dicom_node.check.seg import SegmentSummary

_TRACKING_ID = ("DCM", "112039")
_SIDES = {None: ("", ""), "left": ("SCT", "7771000"), "right": ("SCT", "24028007")}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]+")
_RELATIVE = 1e-5
"""Numbers are reported with six digits."""


FOUND_ERRORS = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What spoilt findings can make their reader raise."""


@dataclass(frozen=True)
class FoundSegment:
    """A segment as the algorithm described it."""

    label: str
    category: CodeKey
    type: CodeKey
    laterality: CodeKey


@dataclass(frozen=True)
class Found:
    """What the algorithm found, as far as results are compared with it.

    Attributes:
        label_map: uint8, shape (planes, rows, columns).
        segments: by number.
        values: (value, unit) of each measurement, by name.
        frames: the image plane of each; None: they are all source images in their order along the planes' normal.
    """

    label_map: npt.NDArray[np.uint8]
    segments: Mapping[int, FoundSegment]
    values: Mapping[str, tuple[float, str]]
    frames: tuple[PlaneKey, ...] | None = None


def what_was_found(findings: Findings) -> Found:
    """The same of an algorithm's answer."""
    frames = tuple((f.SOPInstanceUID, f.number) for f in findings.frames)
    segments = {
        s.value: FoundSegment(s.label, _key(s.category), _key(s.type), _SIDES[s.laterality]) for s in findings.segments
    }
    values = {m.name: (m.value, m.unit) for m in findings.measurements}
    return Found(findings.label_map, segments, values, frames or None)


def read_found(folder: Path) -> Found:
    """The same of ``findings.npz`` and ``findings.json``.

    Raises:
        FOUND_ERRORS: they are gone, or not what a run leaves.
    """
    with np.load(folder / "findings.npz", allow_pickle=False) as arrays:
        label_map = arrays["label_map"]
    rest = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    if label_map.ndim != 3 or label_map.dtype != np.uint8:
        raise ValueError("the label map is no 3-D uint8 array")
    frames = tuple((str(f["SOPInstanceUID"]), int(f["number"])) for f in rest["frames"])
    segments = {
        int(s["value"]): FoundSegment(
            str(s["label"]), _key(Code(**s["category"])), _key(Code(**s["type"])), _SIDES[s["laterality"]]
        )
        for s in rest["segments"]
    }
    values = {str(m["name"]): (float(m["value"]), str(m["unit"])) for m in rest["measurements"]}
    return Found(label_map, segments, values, frames or None)


def _key(code: Code) -> CodeKey:
    return code.scheme, code.value


def check_segments_found(result: ResultFile, segments: Mapping[int, SegmentSummary], found: Found) -> list[str]:
    """The segments of a SEG are those of the findings."""
    problems = []
    if list(segments) != list(found.segments):
        problems.append(f"{result.name}: it has the segments {list(segments)}, the findings {list(found.segments)}")
    for number, s in segments.items():
        wanted = found.segments.get(number)
        if wanted is None:
            continue
        pairs: list[tuple[str, str | CodeKey, str | CodeKey]] = [
            ("label", s.label, _CONTROL.sub(" ", wanted.label).strip()[:64].strip()),
            ("category", s.category, wanted.category),
            ("type", s.type, wanted.type),
            ("laterality", s.laterality, wanted.laterality),
        ]
        problems += [
            f"{result.name}: the {what} of segment {number} is {is_}, that of the findings {should}"
            for what, is_, should in pairs
            if is_ != should
        ]
    return problems


def check_values_found(result: ResultFile, found: Found) -> list[str]:
    """The numbers of a Measurement Report are those of the findings, and all of them are there."""
    problems = []
    seen = set()
    for item in _values(result.ds):
        name = next((text(i, "TextValue") for i in content(item) if _is_tracking_id(i)), "")
        seen.add(name)
        if name not in found.values:
            problems.append(f"{result.name}: the findings have no measurement {name or 'without a name'}")
            continue
        measured = first_item(item, "MeasuredValueSequence")
        value = (numbers(measured, "NumericValue") or [float("nan")])[0]
        unit = code_of(measured, "MeasurementUnitsCodeSequence")[1]
        wanted, wanted_unit = found.values[name]
        if unit != wanted_unit or not abs(value - wanted) <= _RELATIVE * abs(wanted):
            problems.append(f"{result.name}: {name} is {value:g} {unit}, that of the findings {wanted:g} {wanted_unit}")
    missing = [name for name in found.values if name not in seen]
    if missing:
        problems.append(f"{result.name}: the measurement {missing[0]} of the findings is missing")
    return problems


def _values(of: Item) -> Iterator[Item]:
    """The numbers below an item, but for those of the change since a prior study, which is compared by itself."""
    for child in content(of):
        if text(child, "ValueType") == "NUM":
            yield child
        elif text(child, "ValueType") == "CONTAINER" and any(_name(i) in CHANGES for i in content(child)):
            continue
        yield from _values(child)


def _is_tracking_id(item: Item) -> bool:
    return _name(item) == _TRACKING_ID


def _name(item: Item) -> CodeKey:
    return code_of(item, "ConceptNameCodeSequence")
