"""How values are written for people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicom_node.encode.shown import unit_for_people
from tests.unit.result_samples import findings


@pytest.mark.parametrize(
    ("unit", "shown"),
    [
        ("mL", "mL"),
        ("mL/m2", "mL/m²"),
        ("cm3", "cm³"),
        ("1", ""),
        ("%", "%"),
        ("[arb'U]", "arb'U"),
        ("{beats}/min", "/min"),
        ("{pixels}", "pixels"),
    ],
)
def test_units_are_ucum_without_its_marks(unit: str, shown: str) -> None:
    assert unit_for_people(replace(findings().measurements[0], unit=unit)) == shown
