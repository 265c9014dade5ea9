"""What the picture and the page say of findings: which values, which notes, and how they are written for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dicom_node.algorithm import Findings, Measurement
from dicom_node.encode.change import GROUP as CHANGES

_ANNOTATION = re.compile(r"\{[^}]*\}")
_POWER = re.compile(r"(?<=m)[23]\b")
_RAISED = str.maketrans("23", "²³")


def shown_values(findings: Findings) -> list[Measurement]:
    """The measurements that are shown one by one: those of no group, and the changes since a prior study.

    Changes are few, and what a reader looks for first. Others that an algorithm groups are details, of which there
    may be many.
    """
    return [m for m in findings.measurements if m.group in (None, CHANGES)]


def shown_groups(findings: Findings) -> Iterator[tuple[str, Sequence[Measurement]]]:
    """The groups of which no more is shown than that they are there."""
    shown = shown_values(findings)
    grouped: dict[str, list[Measurement]] = {}
    for m in findings.measurements:
        if m.group and m not in shown:
            grouped.setdefault(m.group, []).append(m)
    yield from grouped.items()


def flags(findings: Findings) -> list[str]:
    """Why values deserve a second look."""
    return [m.flag for m in findings.measurements if m.flag]


def no_finding(findings: Findings) -> str | None:
    """The sentence that says so; None where something is marked."""
    if findings.label_map.any():
        return None
    what = "pixel of these images" if findings.shown else "voxel of this series"
    return f"No finding: the algorithm marked no {what}."


def unit_for_people(m: Measurement) -> str:
    """UCUM's annotations in braces are left out unless they are all there is, and powers are raised: ``mL/m²``."""
    said = "" if m.unit == "1" else (_ANNOTATION.sub("", m.unit) or m.unit.strip("{}")).strip("[]")
    return _POWER.sub(lambda power: power[0].translate(_RAISED), said)
