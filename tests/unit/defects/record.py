"""Defects of the Segmentation and of the Measurement Report."""

from __future__ import annotations

from collections.abc import Callable

from pydicom import Dataset

from tests.unit.result_samples import headers

Break = Callable[[Dataset, Dataset], None]
OTHER = "2.25.999"


def frames(seg: Dataset) -> list[Dataset]:
    return list(seg.PerFrameFunctionalGroupsSequence)


def groups(sr: Dataset) -> list[Dataset]:
    container = next(i for i in sr.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return list(container.ContentSequence)


def item(parent: Dataset, code: str) -> Dataset:
    """The first child with that concept."""
    found: Dataset = next(i for i in parent.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == code)
    return found


def drop(parent: Dataset, code: str) -> None:
    parent.ContentSequence.remove(item(parent, code))


def set_volume(number: Dataset, value: float) -> None:
    number.MeasuredValueSequence[0].NumericValue = str(value)
    number.MeasuredValueSequence[0].FloatingPointValue = value


def equipment(ds: Dataset) -> Dataset:
    return ds.ContributingEquipmentSequence[-1]


def seg_source_missing(seg: Dataset, sr: Dataset) -> None:
    frames(seg)[0].DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = OTHER


def seg_no_derivation(seg: Dataset, sr: Dataset) -> None:
    del frames(seg)[0].DerivationImageSequence


def seg_referenced_instance_missing(seg: Dataset, sr: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = OTHER


def seg_no_referenced_series(seg: Dataset, sr: Dataset) -> None:
    del seg.ReferencedSeriesSequence


def seg_other_referenced_series(seg: Dataset, sr: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = OTHER


def seg_other_frame_of_reference(seg: Dataset, sr: Dataset) -> None:
    seg.FrameOfReferenceUID = OTHER


def seg_other_study(seg: Dataset, sr: Dataset) -> None:
    seg.StudyInstanceUID = OTHER


def sr_other_study(seg: Dataset, sr: Dataset) -> None:
    sr.StudyInstanceUID = OTHER


def seg_doubled_spacing(seg: Dataset, sr: Dataset) -> None:
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [2 * v for v in measures.PixelSpacing]


def seg_doubled_slice_distance(seg: Dataset, sr: Dataset) -> None:
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = 2 * measures.SpacingBetweenSlices


def seg_turned(seg: Dataset, sr: Dataset) -> None:
    seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def seg_half_a_slice_off(seg: Dataset, sr: Dataset) -> None:
    for frame in frames(seg):
        place = frame.PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [x + 0.75, y, z]


def seg_mirrored(seg: Dataset, sr: Dataset) -> None:
    places = [f.PlanePositionSequence for f in frames(seg)]
    for frame, place in zip(frames(seg), reversed(places), strict=True):
        frame.PlanePositionSequence = place


def seg_rows_and_columns_swapped(seg: Dataset, sr: Dataset) -> None:
    seg.Rows, seg.Columns = seg.Columns, seg.Rows


def seg_frame_of_unknown_segment(seg: Dataset, sr: Dataset) -> None:
    frames(seg)[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 7


def seg_frame_twice(seg: Dataset, sr: Dataset) -> None:
    frames(seg)[1].PlanePositionSequence = frames(seg)[0].PlanePositionSequence


def seg_no_tracking_uid(seg: Dataset, sr: Dataset) -> None:
    del seg.SegmentSequence[0].TrackingUID


def seg_other_tracking_uid(seg: Dataset, sr: Dataset) -> None:
    seg.SegmentSequence[1].TrackingUID = OTHER


def seg_other_type(seg: Dataset, sr: Dataset) -> None:
    seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "10200004"


def seg_other_side(seg: Dataset, sr: Dataset) -> None:
    kind = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue = "24028007"


def seg_no_algorithm_version(seg: Dataset, sr: Dataset) -> None:
    del seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion


def seg_pixels_cut(seg: Dataset, sr: Dataset) -> None:
    seg.PixelData = seg.PixelData[:-40]


def seg_pixels_cleared(seg: Dataset, sr: Dataset) -> None:
    seg.PixelData = bytes(len(seg.PixelData))


def seg_one_bit_in_eight_lost(seg: Dataset, sr: Dataset) -> None:
    seg.PixelData = bytes(b & 0x7F for b in seg.PixelData)


def seg_is_fractional(seg: Dataset, sr: Dataset) -> None:
    seg.SegmentationType = "FRACTIONAL"


def seg_own_uid_is_a_sources(seg: Dataset, sr: Dataset) -> None:
    seg.SOPInstanceUID = headers()[0].SOPInstanceUID
    seg.file_meta.MediaStorageSOPInstanceUID = seg.SOPInstanceUID


def seg_in_the_source_series(seg: Dataset, sr: Dataset) -> None:
    seg.SeriesInstanceUID = headers()[0].SeriesInstanceUID


def seg_other_manufacturer(seg: Dataset, sr: Dataset) -> None:
    seg.Manufacturer = "Somebody"


def seg_wrong_patient(seg: Dataset, sr: Dataset) -> None:
    seg.PatientID = "SECRET-1"


def sr_wrong_name(seg: Dataset, sr: Dataset) -> None:
    sr.PatientName = "Secret^Name"


def sr_wrong_birth_date(seg: Dataset, sr: Dataset) -> None:
    sr.PatientBirthDate = "19500101"


def sr_character_set_lost(seg: Dataset, sr: Dataset) -> None:
    sr.SpecificCharacterSet = "ISO_IR 100"


def sr_segment_that_the_seg_lacks(seg: Dataset, sr: Dataset) -> None:
    item(groups(sr)[0], "121191").ReferencedSOPSequence[0].ReferencedSegmentNumber = 5


def sr_other_seg(seg: Dataset, sr: Dataset) -> None:
    item(groups(sr)[0], "121191").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = OTHER


def sr_segments_swapped(seg: Dataset, sr: Dataset) -> None:
    for group, number in zip(groups(sr), (2, 1), strict=False):
        item(group, "121191").ReferencedSOPSequence[0].ReferencedSegmentNumber = number


def sr_wrong_volume(seg: Dataset, sr: Dataset) -> None:
    set_volume(item(groups(sr)[0], "118565006"), 3.21)


def sr_volume_one_percent_off_and_more_than_the_floor(seg: Dataset, sr: Dataset) -> None:
    set_volume(item(groups(sr)[0], "118565006"), 0.7695 + 0.012)


def sr_wrong_total(seg: Dataset, sr: Dataset) -> None:
    set_volume(item(groups(sr)[2], "118565006"), 3.21)


def sr_volume_in_another_unit(seg: Dataset, sr: Dataset) -> None:
    measured = item(groups(sr)[0], "118565006").MeasuredValueSequence[0]
    measured.MeasurementUnitsCodeSequence[0].CodeValue = "mm3"


def sr_two_values(seg: Dataset, sr: Dataset) -> None:
    item(groups(sr)[0], "118565006").MeasuredValueSequence[0].NumericValue = "9.9"


def sr_no_tracking_uid(seg: Dataset, sr: Dataset) -> None:
    drop(groups(sr)[0], "112040")


def sr_no_tracking_id(seg: Dataset, sr: Dataset) -> None:
    drop(groups(sr)[0], "112039")


def sr_no_procedure(seg: Dataset, sr: Dataset) -> None:
    drop(sr, "121058")


def sr_no_observer(seg: Dataset, sr: Dataset) -> None:
    drop(sr, "121012")


def sr_other_observer(seg: Dataset, sr: Dataset) -> None:
    item(sr, "121012").UID = OTHER


def sr_no_algorithm_version(seg: Dataset, sr: Dataset) -> None:
    drop(groups(sr)[0], "111003")


def sr_other_algorithm(seg: Dataset, sr: Dataset) -> None:
    item(groups(sr)[1], "111001").TextValue = "Amygdala"


def sr_no_equipment(seg: Dataset, sr: Dataset) -> None:
    del sr.ContributingEquipmentSequence


def sr_no_device_uid(seg: Dataset, sr: Dataset) -> None:
    del equipment(sr).DeviceUID


def sr_other_version_in_equipment(seg: Dataset, sr: Dataset) -> None:
    equipment(sr).SoftwareVersions = "9.9"


def sr_evidence_without_a_source(seg: Dataset, sr: Dataset) -> None:
    for series in sr.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence:
        if len(series.ReferencedSOPSequence) > 1:
            del series.ReferencedSOPSequence[0]


def sr_evidence_without_the_seg(seg: Dataset, sr: Dataset) -> None:
    study = sr.CurrentRequestedProcedureEvidenceSequence[0]
    study.ReferencedSeriesSequence = [s for s in study.ReferencedSeriesSequence if len(s.ReferencedSOPSequence) > 1]


def sr_evidence_of_another_study(seg: Dataset, sr: Dataset) -> None:
    sr.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = OTHER


def sr_image_that_is_no_source(seg: Dataset, sr: Dataset) -> None:
    library = item(item(sr, "111028"), "126200")
    library.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = OTHER


def sr_source_series_wrong(seg: Dataset, sr: Dataset) -> None:
    item(groups(sr)[0], "121232").UID = OTHER


def sr_without_the_second_group(seg: Dataset, sr: Dataset) -> None:
    container = item(sr, "126010")
    del container.ContentSequence[1]


def sr_without_research_use(seg: Dataset, sr: Dataset) -> None:
    remarks = item(sr, "C0034375").ContentSequence
    remarks[:] = [i for i in remarks if "research use" not in str(i.get("TextValue", ""))]


def sr_says_no_finding(seg: Dataset, sr: Dataset) -> None:
    item(item(sr, "C0034375"), "121106").TextValue = "No finding: nothing."


def sr_description_without_research_use(seg: Dataset, sr: Dataset) -> None:
    sr.SeriesDescription = "Hippocampus"


def sr_other_title(seg: Dataset, sr: Dataset) -> None:
    sr.ConceptNameCodeSequence[0].CodeValue = "126001"


BREAKS: dict[Break, str] = {
    seg_source_missing: r"seg\.dcm: frame 1 refers to the image 2\.25\.999, which is no source image",
    seg_no_derivation: r"frame 1 refers to 0 source images in DerivationImageSequence",
    seg_referenced_instance_missing: r"ReferencedSeriesSequence names 1 instances that are no source image",
    seg_no_referenced_series: r"seg\.dcm: ReferencedSeriesSequence is absent",
    seg_other_referenced_series: r"ReferencedSeriesSequence names the series 2\.25\.999",
    seg_other_frame_of_reference: r"seg\.dcm: FrameOfReferenceUID is 2\.25\.999, that of the source images is 2\.25",
    seg_other_study: r"seg\.dcm: StudyInstanceUID is 2\.25\.999, that of the source images is 2\.25",
    sr_other_study: r"sr\.dcm: StudyInstanceUID is 2\.25\.999, that of the source images is 2\.25",
    seg_doubled_spacing: r"PixelSpacing is \[1\.8, 1\.9\], that of the source images is \[0\.9, 0\.95\]",
    seg_doubled_slice_distance: r"SpacingBetweenSlices is \[3\.0\], the source images are 1\.5000 mm apart",
    seg_turned: r"ImageOrientationPatient is \[1\.0, 0\.0, 0\.0, 0\.0, 1\.0, 0\.0\], that of",
    seg_half_a_slice_off: r"frame 1 lies at .* lies at .*; so do 6 more frames",
    seg_mirrored: r"frame 1 lies at .*, the source image that it refers to lies at",
    seg_rows_and_columns_swapped: r"Rows is 24, that of the source is 20",
    seg_frame_of_unknown_segment: r"frame 1 is of segment 7, but SegmentSequence has \['1', '2'\]",
    seg_frame_twice: r"frame 2 repeats the place",
    seg_no_tracking_uid: r"seg\.dcm: segment 1 has no TrackingUID",
    seg_other_tracking_uid: r"Right hippocampus: Tracking Unique Identifier is .* has 2\.25\.999",
    seg_other_type: r"Left hippocampus: Finding is \('SCT', '5302003'\), segment 1 of the SEG has .*10200004",
    seg_other_side: r"Left hippocampus: Laterality is .*7771000.*24028007",
    seg_no_algorithm_version: r"seg\.dcm: segment 1 was made by Hippocampus without version",
    seg_pixels_cut: r"seg\.dcm: PixelData has 380 bytes, 7 frames of 1 bit need 420",
    seg_pixels_cleared: r"seg\.dcm: no segment has a voxel",
    seg_one_bit_in_eight_lost: r"Left hippocampus volume is 0\.7(69|70) mL, the mask of segment 1 has 0\.",
    seg_is_fractional: r"SegmentationType is FRACTIONAL, not BINARY",
    seg_own_uid_is_a_sources: r"seg\.dcm: its SOPInstanceUID .* is that of a source image",
    seg_in_the_source_series: r"seg\.dcm: its SeriesInstanceUID .* is that of the source images",
    seg_other_manufacturer: r"seg\.dcm: Manufacturer is 'Somebody', not 'dicom_node'",
    seg_wrong_patient: r"seg\.dcm: PatientID is not that of the source images",
    sr_wrong_name: r"sr\.dcm: PatientName is not that of the source images",
    sr_wrong_birth_date: r"sr\.dcm: PatientBirthDate is not that of the source images",
    sr_character_set_lost: r"sr\.dcm: SpecificCharacterSet is \['ISO_IR 100'\], that of .* \['ISO_IR 192'\]",
    sr_segment_that_the_seg_lacks: r"it refers to segment 5, seg\.dcm has \[1, 2\]",
    sr_other_seg: r"it refers to the SEG 2\.25\.999, which is not among the results",
    sr_segments_swapped: r"Left hippocampus: Tracking Identifier is Left hippocampus, segment 2 of the SEG has Right",
    sr_wrong_volume: r"Left hippocampus volume is 3\.210 mL, the mask of segment 1 has 0\.7(69|70) mL",
    sr_volume_one_percent_off_and_more_than_the_floor: r"is 0\.78\d mL, the mask of segment 1 has 0\.7(69|70) mL",
    sr_wrong_total: r"Total hippocampus volume is 3\.210 mL, the mask of segment 1 and 2 has 0\.985 mL",
    sr_volume_in_another_unit: r"Left hippocampus volume is 0\.001 mL, the mask of segment 1 has 0\.7(69|70) mL",
    sr_two_values: r"Left hippocampus volume is 9\.9 as NumericValue, 0\.7695 as FloatingPointValue",
    sr_no_tracking_uid: r"Left hippocampus: Tracking Unique Identifier is absent",
    sr_no_tracking_id: r"measurement group 1: Tracking Identifier is absent",
    sr_no_procedure: r"sr\.dcm: Procedure Reported is absent",
    sr_no_observer: r"sr\.dcm: the device observer \(Device Observer UID\) is absent",
    sr_other_observer: r"Device Observer UID is 2\.25\.999, Contributing Equipment's DeviceUID is 2\.25\.123456789",
    sr_no_algorithm_version: r"Left hippocampus: Algorithm Version is absent, Contributing Equipment says 1\.2\.3",
    sr_other_algorithm: r"Right hippocampus: Algorithm Name is Amygdala, Contributing Equipment says Hippocampus",
    sr_no_equipment: r"sr\.dcm: ContributingEquipmentSequence has no item for the algorithm",
    sr_no_device_uid: r"sr\.dcm: the algorithm's item of ContributingEquipmentSequence has no DeviceUID",
    sr_other_version_in_equipment: r"seg\.dcm and sr\.dcm name different algorithms .*'1\.2\.3'.*'9\.9'",
    sr_evidence_without_a_source: r"sr\.dcm: the evidence lacks 2\.25\.\d+$",
    sr_evidence_without_the_seg: r"sr\.dcm: the evidence lacks 2\.25\.\d+$",
    sr_evidence_of_another_study: r"sr\.dcm: the evidence is of the study 2\.25\.999, the report of 2\.25",
    sr_image_that_is_no_source: r"sr\.dcm: it refers to what is neither a source image nor a result: 2\.25\.999",
    sr_source_series_wrong: r"the source series for a segmentation is not that of the source images: 2\.25\.999",
    sr_without_the_second_group: r"no measurement group has the TrackingUID .* of segment 2 \(Right hippocampus\)",
    sr_without_research_use: r"sr\.dcm: no text says 'for research use only'",
    sr_says_no_finding: r"sr\.dcm: it says that nothing was found or analysed, but there is a SEG",
    sr_description_without_research_use: r"sr\.dcm: SeriesDescription does not say 'research use only'",
    sr_other_title: r"sr\.dcm: the title is \('DCM', '126001'\)",
}
