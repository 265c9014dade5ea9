"""How many instances an archive has of a study, series by series: C-FIND, QIDO-RS or Orthanc's REST API."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from pydicom import Dataset

from dicom_node import log
from dicom_node.errors import PeerError
from dicom_node.model.completeness import is_image_class
from dicom_node.model.instance import valid_uid
from dicom_node.peer.association import associate
from dicom_node.peer.find import FIND_CONTEXTS, find
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.qido import search_all
from dicom_node.settings_peers import Source

_logger = log.get("peer")

_WITHOUT_IMAGES: Final = frozenset(
    {"SR", "PR", "KO", "SEG", "REG", "FID", "DOC", "PLAN", "AU", "ECG", "EPS", "HD", "RESP", "M3D", "ANN", "RWV", "STL"}
    | {"RTSTRUCT", "RTPLAN", "RTRECORD", "RTDOSE", "SRF", "SMR", "ASMT", "TEXTUREMAP", "FUNCTION", "BDUS", "KER"}
)
"""Modality (0008,0060) of series that hold no images (PS3.3 section C.7.3.1.1.1)."""


@dataclass(frozen=True)
class SeriesCount:
    """A series of an archive.

    Attributes:
        instances: how many it has.
        has_images: by its modality.
        not_images: SOP Instance UIDs of those that are no images, as far as they were looked at.
    """

    SeriesInstanceUID: str
    instances: int
    has_images: bool = True
    not_images: frozenset[str] = frozenset()


def count_instances(
    source: Source, calling_ae_title: str, study_uid: str, look_into: Collection[str] = ()
) -> list[SeriesCount]:
    """What an archive says of a study; nothing, if it does not know it.

    Its Number of Series Related Instances is believed. Where it gives none, its instances are counted one by one, as
    they are for the series to ``look_into``. (An Orthanc that is asked by its own API is not looked into.)

    Raises:
        PeerError: it cannot be asked, or does not say.
    """
    if source.kind == "orthanc":
        with HttpPeer(source, str(source.orthanc_url)) as web:
            return _of_orthanc(web, study_uid)
    if source.kind == "dicomweb":
        with HttpPeer(source, str(source.dicomweb_url)) as web:
            return _of_series(_Web(web, study_uid), look_into)
    with associate(source, calling_ae_title, FIND_CONTEXTS) as association:
        return _of_series(_Dimse(source, association, study_uid), look_into)


class _Dimse:
    """C-FIND over one association (PS3.4 Annex C)."""

    def __init__(self, source: Source, association: Any, study_uid: str) -> None:
        self._source, self._association, self._study_uid = source, association, study_uid

    def series(self) -> list[Dataset]:
        keys = self._keys("SERIES", "")
        keys.Modality = ""
        keys.NumberOfSeriesRelatedInstances = None
        return find(self._source, self._association, keys)

    def instances(self, series_uid: str) -> list[Dataset]:
        keys = self._keys("IMAGE", series_uid)
        keys.SOPInstanceUID = ""
        keys.SOPClassUID = ""
        return find(self._source, self._association, keys)

    def _keys(self, level: str, series_uid: str) -> Dataset:
        keys = Dataset()
        keys.QueryRetrieveLevel = level
        keys.StudyInstanceUID = self._study_uid
        keys.SeriesInstanceUID = series_uid
        return keys


class _Web:
    """QIDO-RS (PS3.18 section 10.6)."""

    def __init__(self, web: HttpPeer, study_uid: str) -> None:
        self._web, self._study = web, f"/studies/{study_uid}"

    def series(self) -> list[Dataset]:
        return search_all(self._web, f"{self._study}/series", {"includefield": "NumberOfSeriesRelatedInstances"})

    def instances(self, series_uid: str) -> list[Dataset]:
        return search_all(self._web, f"{self._study}/series/{series_uid}/instances", {"includefield": "SOPClassUID"})


def _of_series(archive: _Dimse | _Web, look_into: Collection[str]) -> list[SeriesCount]:
    found = {}
    for answer in archive.series():
        uid = str(answer.get("SeriesInstanceUID", ""))
        if not uid or not valid_uid(uid):
            continue
        has_images = str(answer.get("Modality", "")) not in _WITHOUT_IMAGES
        instances = _number(answer)
        not_images: frozenset[str] = frozenset()
        if instances is None:
            instances, not_images = _one_by_one(archive, uid)
        elif uid in look_into:
            try:
                instances, not_images = _one_by_one(archive, uid)
            except PeerError as e:
                _logger.debug("series_not_looked_into", SeriesInstanceUID=uid, reason=str(e))
        found[uid] = SeriesCount(uid, instances, has_images, not_images)
    return list(found.values())


def _one_by_one(archive: _Dimse | _Web, series_uid: str) -> tuple[int, frozenset[str]]:
    """How many instances a series has, and which of them are no images; a class that is not told says nothing."""
    classes = {str(i.get("SOPInstanceUID", "")): str(i.get("SOPClassUID", "")) for i in archive.instances(series_uid)}
    not_images = frozenset(uid for uid, sop_class in classes.items() if sop_class and not is_image_class(sop_class))
    return len(classes), not_images


def _number(answer: Dataset) -> int | None:
    try:
        value = answer.get("NumberOfSeriesRelatedInstances")
        return None if value in (None, "") else int(value)
    except (ValueError, TypeError):
        return None


def _of_orthanc(web: HttpPeer, study_uid: str) -> list[SeriesCount]:
    body = {"Level": "Series", "Query": {"StudyInstanceUID": study_uid}, "Expand": True, "CaseSensitive": True}
    answer: Any = web.json(web.request("POST", "/tools/find", json=body))
    try:
        return [
            SeriesCount(
                str(item["MainDicomTags"]["SeriesInstanceUID"]),
                len(item["Instances"]),
                item["MainDicomTags"].get("Modality") not in _WITHOUT_IMAGES,
            )
            for item in answer
        ]
    except (LookupError, TypeError, AttributeError) as e:
        raise PeerError(f"{web.name} did not answer as Orthanc does") from e
