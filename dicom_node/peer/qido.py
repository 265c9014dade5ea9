"""QIDO-RS (PS3.18 section 10.6) as a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom import Dataset

from dicom_node import log
from dicom_node.errors import PeerError
from dicom_node.peer.http import HttpPeer

_log = log.get(__name__)
_PAGE = 500


def search_all(web: HttpPeer, resource: str, query: Mapping[str, str], *, may_lack: bool = True) -> list[Dataset]:
    """All matches of a search, page by page; as :func:`search` otherwise.

    A server that gives fewer at once than are asked for says so in a Warning (PS3.18 section 8.3.4.4).
    """
    found: list[Dataset] = []
    seen: set[str] = set()
    while True:
        part = {**query, "limit": str(_PAGE), "offset": str(len(found))}
        page, cut = _search(web, resource, part, may_lack=may_lack)
        # A server that knows no offset answers with the same again.
        keys = {_key(ds) for ds in page}
        if keys <= seen:
            return found
        seen |= keys
        found += page
        if len(page) < _PAGE and not cut:
            return found


def search(web: HttpPeer, resource: str, query: Mapping[str, str], *, may_lack: bool = True) -> list[Dataset]:
    """The matches of a search, or as many of them as the server gives at once; none if the resource is not there.

    Args:
        web: whose base is the DICOMweb service's URL.
        resource: ``/studies``, ``/studies/{uid}/series`` ...
        query: keywords and values to match; ``includefield`` as the standard has it.
        may_lack: that the resource is not there (404) is no error.

    Raises:
        PeerError: as ``HttpPeer.request``, or the answer is no DICOM JSON.
    """
    return _search(web, resource, query, may_lack=may_lack)[0]


def _search(web: HttpPeer, resource: str, query: Mapping[str, str], *, may_lack: bool) -> tuple[list[Dataset], bool]:
    """The matches, and whether the server says that there are more."""
    known = (200, 204, 206, 404) if may_lack else (200, 204, 206)
    answer = web.request("GET", resource, params=query, headers={"Accept": "application/dicom+json"}, accept=known)
    if answer.status_code == 404:
        # The study or series is not there (yet); a wrong dicomweb_url looks the same, hence the line.
        _log.warning("qido_not_found", peer=web.peer.name, url=web.base)
        return [], False
    if answer.status_code == 204 or not answer.content:
        return [], False
    try:
        items: Any = answer.json()
        return [_dataset(item) for item in items], answer.headers.get("Warning", "").startswith("299")
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise PeerError(f"{web.name} did not answer in DICOM JSON") from e


def _dataset(item: Any) -> Dataset:
    ds = Dataset.from_json(item)
    for uid in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if uid in ds and not ds[uid].value:
            raise ValueError(f"a match with an empty {uid}")
    return ds


def _key(ds: Dataset) -> str:
    return "/".join(str(ds.get(k, "")) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
