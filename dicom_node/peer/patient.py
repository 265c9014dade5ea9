"""Which studies of a patient an archive has: C-FIND, QIDO-RS or Orthanc's REST API behind one question."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

from dicom_node.errors import PeerError
from dicom_node.model.instance import valid_uid
from dicom_node.peer.association import associate
from dicom_node.peer.find import FIND_CONTEXTS, find
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.qido import search_all
from dicom_node.settings_peers import Source

_RETURNED = ("StudyTime", "ModalitiesInStudy", "PatientBirthDate", "PatientSex", "NumberOfStudyRelatedInstances")


@dataclass(frozen=True)
class PatientStudy:
    """A study of a patient, as an archive tells of it; what it does not tell is empty or None.

    Attributes:
        instances: how many it says it has.
        modalities: Modalities in Study.
    """

    StudyInstanceUID: str
    StudyDate: date
    StudyTime: str
    PatientBirthDate: str
    PatientSex: str
    modalities: tuple[str, ...]
    instances: int | None


def find_patient_studies(source: Source, calling_ae_title: str, patient_id: str, until: date) -> list[PatientStudy]:
    """The studies with this Patient ID up to a day, the latest first; those without a date are left out.

    Whether they are of the same patient is for the caller to see: an ID may be given twice.

    Raises:
        PeerError: the archive cannot be asked; or (not retryable) the ID has a wildcard, which would match others.
    """
    if not patient_id or set(patient_id) & set("*?\\"):
        raise PeerError("the Patient ID is empty or has a wildcard in it", retryable=False)
    wanted = {"PatientID": patient_id, "StudyDate": f"-{until:%Y%m%d}"}
    if source.kind == "dicomweb":
        with HttpPeer(source, str(source.dicomweb_url)) as web:
            answer = search_all(web, "/studies", {**wanted, "includefield": ",".join(_RETURNED)})
            found = [_values(ds) for ds in answer]
    elif source.kind == "orthanc":
        with HttpPeer(source, str(source.orthanc_url)) as web:
            found = _find_in_orthanc(web, wanted)
    else:
        found = [_values(ds) for ds in _find_by_dimse(source, calling_ae_title, wanted)]
    studies = [study for told in found if (study := _study(told)) is not None and study.StudyDate <= until]
    return sorted(studies, key=lambda s: (s.StudyDate, s.StudyTime, s.StudyInstanceUID), reverse=True)


def _find_by_dimse(source: Source, calling_ae_title: str, wanted: Mapping[str, str]) -> list[Dataset]:
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = ""
    for keyword in _RETURNED:
        setattr(keys, keyword, None if keyword.startswith("Number") else "")
    for keyword, value in wanted.items():
        setattr(keys, keyword, value)
    with associate(source, calling_ae_title, FIND_CONTEXTS) as association:
        return find(source, association, keys)


def _find_in_orthanc(web: HttpPeer, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    body = {"Level": "Study", "Query": dict(wanted), "Expand": True, "CaseSensitive": True}
    answer: Any = web.json(web.request("POST", "/tools/find", json=body))
    found = []
    try:
        for item in answer:
            found.append({**item["PatientMainDicomTags"], **item["MainDicomTags"]})
    except (LookupError, TypeError) as e:
        raise PeerError(f"{web.name} did not answer as Orthanc does") from e
    return found


def _study(told: Mapping[str, Any]) -> PatientStudy | None:
    uid = str(told.get("StudyInstanceUID") or "")
    try:
        day = datetime.strptime(str(told.get("StudyDate") or ""), "%Y%m%d").date()
    except ValueError:
        return None
    if not valid_uid(uid):
        return None
    modalities = told.get("ModalitiesInStudy") or ()
    count = told.get("NumberOfStudyRelatedInstances")
    return PatientStudy(
        StudyInstanceUID=uid,
        StudyDate=day,
        StudyTime=str(told.get("StudyTime") or ""),
        PatientBirthDate=str(told.get("PatientBirthDate") or ""),
        PatientSex=str(told.get("PatientSex") or ""),
        modalities=tuple(modalities) if isinstance(modalities, MultiValue | list | tuple) else (str(modalities),),
        instances=None if count in (None, "") else int(count),
    )


def _values(ds: Dataset) -> dict[str, Any]:
    """What is told of a study; what is ill-formed is left out, without pydicom's warning, which would repeat it."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword in ("StudyInstanceUID", "StudyDate", *_RETURNED):
            with contextlib.suppress(ValueError, TypeError):
                found[keyword] = ds.get(keyword)
    return found
