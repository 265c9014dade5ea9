"""Whose result it is, and what made it."""

from __future__ import annotations

import re
from datetime import datetime

from pydicom import Dataset
from pydicom.uid import JPEGBaseline8Bit

from dicom_node.check.objects import MODALITIES, Attributes, ResultFile, Sources, code_of, items, text, value

MANUFACTURER = "dicom_node"
PROCESSING_EQUIPMENT = ("DCM", "109102")
_UTF_8 = "ISO_IR 192"
_ESCAPE = re.compile(r"\x1b[ -/]+[0-~]")
_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")

COPIED = (
    "PatientID", "PatientName", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
"""What a result takes from its source images."""

Identity = tuple[str, str, str]
"""Algorithm name, version and Device UID."""


def check_identity(result: ResultFile, sources: Sources) -> list[str]:
    """Patient, study, character set and UIDs against the source; values that name the patient are not repeated."""
    problems = []
    ds, first = result.ds, sources.first
    for keyword in COPIED:
        # Images may differ in what a result takes from one of them.
        if _without_escapes(text(ds, keyword)) not in {_copied(keyword, header) for header in sources.headers}:
            problems.append(f"{result.name}: {keyword} is not that of the source images")
    if text(ds, "StudyInstanceUID") != text(first, "StudyInstanceUID"):
        problems.append(
            f"{result.name}: StudyInstanceUID is {text(ds, 'StudyInstanceUID')}, "
            f"that of the source images is {text(first, 'StudyInstanceUID')}"
        )
    problems += _check_character_set(result, first)
    if text(ds, "SOPInstanceUID") in sources.by_uid:
        problems.append(f"{result.name}: its SOPInstanceUID {text(ds, 'SOPInstanceUID')} is that of a source image")
    if text(ds, "SeriesInstanceUID") in sources.series:
        problems.append(
            f"{result.name}: its SeriesInstanceUID {text(ds, 'SeriesInstanceUID')} is that of the source images"
        )
    return problems


def check_lossy(result: ResultFile, sources: Sources) -> list[str]:
    """What is made from an image that lost something says so, and by which ratio (PS3.3 section C.7.6.1.1.5)."""
    if not sources.headers:
        return []
    expected, found = "01" if any(map(_is_lossy, sources.headers)) else "00", text(result.ds, "LossyImageCompression")
    if found != expected:
        return [f"{result.name}: LossyImageCompression is {found or 'absent'}, not {expected}"]
    if found == "01" and not text(result.ds, "LossyImageCompressionRatio"):
        return [f"{result.name}: LossyImageCompressionRatio is absent"]
    return []


def _is_lossy(header: Dataset) -> bool:
    meta = getattr(header, "file_meta", None) or Dataset()
    return text(header, "LossyImageCompression") == "01" or text(meta, "TransferSyntaxUID") == JPEGBaseline8Bit


def check_sources(sources: Sources) -> list[str]:
    """The source images are of one patient. Spelling may differ (case, closing carets), as archives differ in it."""
    problems = []
    for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
        values = {_copied(keyword, header) for header in sources.headers}
        if keyword == "PatientName":
            values = {v.strip(" ^").upper() for v in values}
        if len(values) > 1:
            problems.append(f"the source images have {len(values)} different values of {keyword}")
    return problems


def check_origin(result: ResultFile) -> tuple[list[str], Identity]:
    """Modality, Manufacturer, Contributing Equipment, "research use only"; returns the algorithm named there."""
    problems = []
    ds, name = result.ds, result.name
    if text(ds, "Manufacturer") != MANUFACTURER:
        problems.append(f"{name}: Manufacturer is {text(ds, 'Manufacturer')!r}, not {MANUFACTURER!r}")
    if "research use only" not in text(ds, "SeriesDescription").lower():
        problems.append(f"{name}: SeriesDescription does not say 'research use only'")
    modality = MODALITIES.get(text(ds, "SOPClassUID"), "")
    if modality and text(ds, "Modality") != modality:
        problems.append(f"{name}: Modality is {text(ds, 'Modality') or 'absent'}, not {modality}")
    meta = result.meta
    for keyword, other in (
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
        ("SOPClassUID", "MediaStorageSOPClassUID"),
    ):
        if text(ds, keyword) != text(meta, other):
            problems.append(f"{name}: {keyword} is {text(ds, keyword)}, {other} is {text(meta, other)}")
    own = [
        item
        for item in items(ds, "ContributingEquipmentSequence")
        if text(item, "Manufacturer") == MANUFACTURER
        and code_of(item, "PurposeOfReferenceCodeSequence") == PROCESSING_EQUIPMENT
    ]
    if not own:
        problems.append(f"{name}: ContributingEquipmentSequence has no item for the algorithm")
        return problems, ("", "", "")
    for keyword in ("ManufacturerModelName", "SoftwareVersions", "DeviceUID"):
        if not text(own[0], keyword):
            problems.append(f"{name}: the algorithm's item of ContributingEquipmentSequence has no {keyword}")
    model, version = text(own[0], "ManufacturerModelName"), text(own[0], "SoftwareVersions")
    return problems, (model, version, text(own[0], "DeviceUID"))


def _copied(keyword: str, header: Dataset) -> str:
    """What a result has of that value: an ill-formed date, time or sex is left out of it."""
    found = _without_escapes(text(header, keyword))
    if keyword in ("PatientBirthDate", "StudyDate"):
        return found if _is_date(found) else ""
    if keyword == "StudyTime":
        return found if _TIME.fullmatch(found) else ""
    if keyword == "PatientSex":
        return found if found in ("M", "F", "O") else ""
    return found


def _without_escapes(found: str) -> str:
    """pydicom leaves those of some character sets in the text, and a result may be in UTF-8, which has none."""
    return _ESCAPE.sub("", found)


def _is_date(date: str) -> bool:
    if not _DATE.fullmatch(date):
        return False
    try:
        datetime.strptime(date, "%Y%m%d")
    except ValueError:
        return False
    return True


def _check_character_set(result: ResultFile, first: Dataset) -> list[str]:
    own, source = _terms(result.ds), _terms(first)
    if own in (source, [_UTF_8]):
        return []
    return [f"{result.name}: SpecificCharacterSet is {own}, that of the source images is {source}"]


def _terms(ds: Attributes) -> list[str]:
    found = value(ds, "SpecificCharacterSet")
    terms = [found] if isinstance(found, str) or found is None else list(found)
    cleaned = [str(t or "").strip() for t in terms]
    return ["ISO_IR 6"] if cleaned in ([], [""]) else cleaned
