"""Defects of what all results of a run share, and of the set of files."""

from __future__ import annotations

from collections.abc import Callable

from pydicom import Dataset


def _other_accession(read: dict[str, Dataset]) -> None:
    read["seg"].AccessionNumber = "OTHER-1"


def _other_study_date(read: dict[str, Dataset]) -> None:
    read["contours"].StudyDate = "20200229"


def _other_sex(read: dict[str, Dataset]) -> None:
    read["sr"].PatientSex = "F"


def _one_series_for_two(read: dict[str, Dataset]) -> None:
    read["sr"].SeriesInstanceUID = read["seg"].SeriesInstanceUID


def _one_uid_for_two(read: dict[str, Dataset]) -> None:
    uid = read["sr"].SOPInstanceUID
    read["contours"].SOPInstanceUID = read["contours"].file_meta.MediaStorageSOPInstanceUID = uid


def _file_meta_of_another(read: dict[str, Dataset]) -> None:
    read["seg"].file_meta.MediaStorageSOPInstanceUID = "2.25.999"


def _lossy_mask(read: dict[str, Dataset]) -> None:
    del read["seg"].LossyImageCompression


def _no_report(read: dict[str, Dataset]) -> None:
    del read["sr"]


def _no_segmentation(read: dict[str, Dataset]) -> None:
    del read["seg"]


def _two_studies(read: dict[str, Dataset]) -> None:
    read["sc"].StudyInstanceUID = "2.25.999"


DEFECTS: dict[Callable[[dict[str, Dataset]], None], str] = {
    _other_accession: r"^seg\.dcm: AccessionNumber is not that of the source images$",
    _other_study_date: r"^contours\.dcm: StudyDate is not that of the source images$",
    _other_sex: r"^sr\.dcm: PatientSex is not that of the source images$",
    _one_series_for_two: r"^seg\.dcm and sr\.dcm share the SeriesInstanceUID 2\.25\.",
    _one_uid_for_two: r"^contours\.dcm and sr\.dcm share the SOPInstanceUID 2\.25\.",
    _file_meta_of_another: r"^seg\.dcm: SOPInstanceUID is 2\.25\.\d+, MediaStorageSOPInstanceUID is 2\.25\.999$",
    _lossy_mask: r"^seg\.dcm: LossyImageCompression is absent, not 00$",
    _no_report: r"^there is no Comprehensive 3D SR among the results$",
    _no_segmentation: r"^the findings mark voxels, but there is no Segmentation among the results$",
    _two_studies: r"^sc\.dcm: StudyInstanceUID is 2\.25\.999, that of the source images is",
}
