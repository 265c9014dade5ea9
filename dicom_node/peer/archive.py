"""Which studies an archive has: C-FIND, QIDO-RS or Orthanc's REST API behind one question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset

from dicom_node.errors import PeerError
from dicom_node.model.instance import valid_uid
from dicom_node.peer.association import associate
from dicom_node.peer.find import FIND_CONTEXTS, find
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.qido import search_all
from dicom_node.settings_peers import Source


@dataclass(frozen=True)
class StudyQuery:
    """What studies are looked for: DICOM matching (PS3.4 section C.2.2.2); an empty value matches all.

    Attributes:
        StudyDate: a date or a range of dates.
        ModalitiesInStudy: one modality.
    """

    AccessionNumber: str = ""
    StudyInstanceUID: str = ""
    StudyDate: str = ""
    ModalitiesInStudy: str = ""

    def __post_init__(self) -> None:
        for value in (self.AccessionNumber, self.StudyInstanceUID):
            if set(value) & set("*?\\"):
                raise ValueError("a wildcard would match other studies too")
        if not any(vars(self).values()):
            raise ValueError("a query without a condition would match the whole archive")

    @property
    def keys(self) -> Mapping[str, str]:
        """What is set, by keyword."""
        return {keyword: value for keyword, value in vars(self).items() if value}


@dataclass(frozen=True)
class StudyFound:
    """A study of an archive. ``instances``: how many it says it has of it; None: it does not say."""

    StudyInstanceUID: str
    instances: int | None


def find_studies(source: Source, calling_ae_title: str, query: StudyQuery) -> list[StudyFound]:
    """The studies of an archive that match.

    Raises:
        PeerError: it cannot be asked.
    """
    if source.kind == "dicomweb":
        with HttpPeer(source, str(source.dicomweb_url)) as web:
            wanted = {**query.keys, "includefield": "NumberOfStudyRelatedInstances"}
            found = search_all(web, "/studies", wanted)
    elif source.kind == "orthanc":
        with HttpPeer(source, str(source.orthanc_url)) as web:
            return _find_in_orthanc(web, query)
    else:
        found = _find_by_dimse(source, calling_ae_title, query)
    studies = [StudyFound(str(ds.get("StudyInstanceUID", "")), _count(ds)) for ds in found]
    return [study for study in studies if valid_uid(study.StudyInstanceUID)]


def _find_by_dimse(source: Source, calling_ae_title: str, query: StudyQuery) -> list[Dataset]:
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = ""
    keys.NumberOfStudyRelatedInstances = None
    for keyword, value in query.keys.items():
        setattr(keys, keyword, value)
    with associate(source, calling_ae_title, FIND_CONTEXTS) as association:
        return find(source, association, keys)


def _count(ds: Dataset) -> int | None:
    count = ds.get("NumberOfStudyRelatedInstances")
    return None if count in (None, "") else int(count)


def _find_in_orthanc(web: HttpPeer, query: StudyQuery) -> list[StudyFound]:
    body = {"Level": "Study", "Query": dict(query.keys), "Expand": True, "CaseSensitive": True}
    answer: Any = web.json(web.request("POST", "/tools/find", json=body))
    try:
        uids = [str(item["MainDicomTags"]["StudyInstanceUID"]) for item in answer]
    except (LookupError, TypeError) as e:
        raise PeerError(f"{web.name} did not answer as Orthanc does") from e
    return [StudyFound(uid, None) for uid in uids if valid_uid(uid)]
