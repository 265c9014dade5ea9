"""Series for routing tests: tags as the receiver keeps them, without files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dicom_node.model.instance import Instance, Series
from dicom_node.receive.folder import instance_of

T1: dict[str, Any] = {
    "Modality": "MR",
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
    "SeriesDescription": "t1_mprage_sag_p2_iso",
    "StudyDescription": "MRI Brain",
    "SeriesNumber": 3,
    "MRAcquisitionType": "3D",
    "ScanningSequence": ["GR", "IR"],
    "RepetitionTime": 2300,
    "EchoTime": 2.98,
    "InversionTime": 900,
    "FlipAngle": 9,
    "SliceThickness": 1,
    "PixelSpacing": [1, 1],
    "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    "Rows": 256,
    "Columns": 256,
    "PatientPosition": "HFS",
}
T2: dict[str, Any] = {
    **T1,
    "SeriesDescription": "t2_tse_tra",
    "SeriesNumber": 4,
    "MRAcquisitionType": "2D",
    "ScanningSequence": "SE",
    "RepetitionTime": 5200,
    "EchoTime": 98,
    "InversionTime": None,
    "FlipAngle": 150,
    "SliceThickness": 5,
}


def series(
    tags: dict[str, Any],
    count: int = 170,
    number: int = 1,
    *,
    patient: str = "a",
    own: bool = False,
    source: str = "SCANNER",
    called: str = "DICOMNODE",
    **changed: Any,
) -> Series:
    """``count`` instances with these tags; ``changed`` replaces tags, and a function gets the instance's index."""
    members = []
    for index in range(count):
        merged = {**tags, **{k: v(index) if callable(v) else v for k, v in changed.items()}}
        members.append(
            Instance(
                SOPInstanceUID=f"1.2.{number}.{index + 1}",
                SOPClassUID="1.2.840.10008.5.1.4.1.1.4",
                SeriesInstanceUID=f"1.2.{number}",
                StudyInstanceUID="1.2",
                TransferSyntaxUID="1.2.840.10008.1.2.1",
                digest="0",
                path=f"{number}/{index}",
                size=1,
                patient_key=patient,
                tags={k: v for k, v in merged.items() if v is not None},
                own=own,
                source=source,
                called=called,
            )
        )
    return Series(f"1.2.{number}", "1.2", tuple(members))


def series_of_files(paths: list[Path]) -> Series:
    """The series of DICOM files, with the tags that the receiver keeps."""
    return Series("1.2.1", "1.2", tuple(instance_of(path) for path in paths))
