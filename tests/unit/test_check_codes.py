"""Codes that the check leaves alone, because they may be so."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from dicom_node.check.results import check_results
from dicom_node.encode.results import encode_not_analysed
from tests.unit.defects.codes import SITE
from tests.unit.defects.record import groups, item
from tests.unit.result_samples import context, headers, write_results


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_results(tmp_path_factory.mktemp("sound"))


def test_a_site_is_not_compared_with_what_is_no_anatomy(sound: list[Path], tmp_path: Path) -> None:
    """A lesion's segment says what it is; only the report says where."""
    seg, sr = (pydicom.dcmread(p) for p in sound)
    kind = Dataset()
    kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning = "49755003", "SCT", "Morphologic abnormality"
    for segment in seg.SegmentSequence:
        segment.SegmentedPropertyCategoryCodeSequence = [kind]
    for group in groups(sr)[:2]:
        item(group, "276214006").ConceptCodeSequence = [kind]
        item(group, SITE).ConceptCodeSequence[0].CodeValue = "12738006"
    paths = [tmp_path / p.name for p in sound]
    for ds, path in zip((seg, sr), paths, strict=True):
        ds.save_as(path)
    assert check_results(paths, headers()) == []


def test_a_report_that_nothing_was_analysed_needs_no_number(tmp_path: Path) -> None:
    (result,) = encode_not_analysed("a test", headers(), context(), tmp_path)
    assert check_results([result.path], headers()) == []
