"""Codes, units, kinds and indices of sound results are broken one at a time; the check must name each."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from dicom_node.check.results import check_results
from dicom_node.encode.results import encode_not_analysed
from tests.unit.result_samples import context, headers, write_results
from tests.unit.test_check_mutations import Break, frames, groups, item

VOLUME, SITE = "118565006", "363698007"


def _set_unit(number: Dataset, value: str, scheme: str = "UCUM") -> None:
    unit = number.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
    unit.CodeValue, unit.CodingSchemeDesignator = value, scheme


def volume_in_mm(seg: Dataset, sr: Dataset) -> None:
    _set_unit(item(groups(sr)[0], VOLUME), "mm")


def volume_in_an_unknown_unit(seg: Dataset, sr: Dataset) -> None:
    _set_unit(item(groups(sr)[0], VOLUME), "cup_us")


def volume_in_another_scheme(seg: Dataset, sr: Dataset) -> None:
    _set_unit(item(groups(sr)[0], VOLUME), "mL", "99LOCAL")


def total_in_mm(seg: Dataset, sr: Dataset) -> None:
    _set_unit(item(groups(sr)[2], VOLUME), "mm")


def total_in_mm_under_another_name(seg: Dataset, sr: Dataset) -> None:
    total_in_mm(seg, sr)
    item(groups(sr)[2], VOLUME).ConceptNameCodeSequence[0].CodeValue = "103372001"


def volume_of_no_segment_in_mm(seg: Dataset, sr: Dataset) -> None:
    _set_unit(item(groups(sr)[3], VOLUME), "mm")


def no_number(seg: Dataset, sr: Dataset) -> None:
    for group in groups(sr):
        group.ContentSequence = [i for i in group.ContentSequence if i.ValueType != "NUM"]


def other_site(seg: Dataset, sr: Dataset) -> None:
    item(groups(sr)[0], SITE).ConceptCodeSequence[0].CodeValue = "10200004"


def other_site_of_a_number(seg: Dataset, sr: Dataset) -> None:
    item(item(groups(sr)[1], VOLUME), SITE).ConceptCodeSequence[0].CodeValue = "10200004"


def no_site(seg: Dataset, sr: Dataset) -> None:
    for parent in (groups(sr)[0], *groups(sr)[0].ContentSequence):
        if "ContentSequence" in parent:
            parent.ContentSequence = [i for i in parent.ContentSequence if _concept(i) != SITE]


def _concept(child: Dataset) -> str:
    return str(child.ConceptNameCodeSequence[0].CodeValue)


def other_anatomic_region(seg: Dataset, sr: Dataset) -> None:
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "12738006", "SCT", "Brain"
    seg.SegmentSequence[0].AnatomicRegionSequence = [region]


def seg_modality(seg: Dataset, sr: Dataset) -> None:
    seg.Modality = "MR"


def sr_modality(seg: Dataset, sr: Dataset) -> None:
    del sr.Modality


def index_twice(seg: Dataset, sr: Dataset) -> None:
    first, second = (f.FrameContentSequence[0] for f in frames(seg)[:2])
    second.DimensionIndexValues = first.DimensionIndexValues


def no_index(seg: Dataset, sr: Dataset) -> None:
    del frames(seg)[2].FrameContentSequence[0].DimensionIndexValues


def source_not_listed(seg: Dataset, sr: Dataset) -> None:
    listed = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    uid = frames(seg)[1].DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    listed[:] = [i for i in listed if uid != i.ReferencedSOPInstanceUID]


def made_by_hand(seg: Dataset, sr: Dataset) -> None:
    seg.SegmentSequence[1].SegmentAlgorithmType = "MANUAL"


def not_complete(seg: Dataset, sr: Dataset) -> None:
    sr.CompletionFlag = "PARTIAL"


BREAKS: dict[Break, str] = {
    volume_in_mm: r"Left hippocampus: Left hippocampus volume is a volume in mm \(UCUM\), which is no known unit",
    volume_in_an_unknown_unit: r"Left hippocampus volume is a volume in cup_us \(UCUM\), which is no known unit",
    volume_in_another_scheme: r"Left hippocampus volume is a volume in mL \(99LOCAL\), which is no known unit",
    total_in_mm: r"Total hippocampus volume is a volume in mm \(UCUM\), which is no known unit of volume$",
    total_in_mm_under_another_name: r"Total hippocampus volume is a volume in mm \(UCUM\), which is no known unit",
    volume_of_no_segment_in_mm: r"Left volume, head size 1500 mL is a volume in mm \(UCUM\), which is no known unit",
    no_number: r"^sr\.dcm: it has no measurement \(NUM\), but seg\.dcm describes 2 segments$",
    other_site: r"Left hippocampus: Finding Site is \('SCT', '10200004'\), segment 1 of the SEG has .*'5302003'",
    other_site_of_a_number: r"Right hippocampus: Finding Site is \('SCT', '10200004'\), segment 2 .*'5302003'",
    no_site: r"Left hippocampus: Finding Site is absent, segment 1 of the SEG has \('SCT', '5302003'\)",
    other_anatomic_region: r"Left hippocampus: Finding Site is \('SCT', '5302003'\), segment 1 .*'12738006'",
    seg_modality: r"^seg\.dcm: Modality is MR, not SEG$",
    sr_modality: r"^sr\.dcm: Modality is absent, not SR$",
    index_twice: r"^seg\.dcm: frame 2 repeats the DimensionIndexValues \(\d\.0, \d\.0\)$",
    no_index: r"^seg\.dcm: frame 3 has no DimensionIndexValues$",
    source_not_listed: r"^seg\.dcm: frame 2 refers to 2\.25\.\d+, which ReferencedSeriesSequence lacks$",
    made_by_hand: r"^seg\.dcm: SegmentAlgorithmType of segment 2 is MANUAL, not AUTOMATIC$",
    not_complete: r"^sr\.dcm: CompletionFlag is PARTIAL, not COMPLETE$",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_results(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda b: b.__name__)
def test_a_broken_property_is_named(sound: list[Path], tmp_path: Path, break_it: Break) -> None:
    datasets = [pydicom.dcmread(p) for p in sound]
    break_it(*datasets)
    paths = [tmp_path / p.name for p in sound]
    for ds, path in zip(datasets, paths, strict=True):
        ds.save_as(path)
    problems = check_results(paths, headers())
    assert any(re.search(BREAKS[break_it], p) for p in problems), problems


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
