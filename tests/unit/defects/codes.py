"""Defects of codes, units, kinds and indices."""

from __future__ import annotations

from pydicom import Dataset

from tests.unit.defects.record import Break, frames, groups, item

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
