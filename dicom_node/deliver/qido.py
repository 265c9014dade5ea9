"""QIDO-RS (PS3.18 section 10.6): which instances a DICOMweb server holds."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import requests

from dicom_node import log
from dicom_node.errors import PeerError
from dicom_node.model.result import ResultObject
from dicom_node.peer.association import peer_name
from dicom_node.settings import Destination

_log = log.get(__name__)
_SOP_INSTANCE_UID = "00080018"
_TRY_AGAIN = (408, 425, 429)


def held_by_qido(destination: Destination, objects: Sequence[ResultObject], study_uid: str) -> set[str]:
    """The SOP Instance UIDs among ``objects`` that the server at ``destination.dicomweb_url`` holds.

    Raises:
        PeerError: no connection, time-out or a server's error (retryable); another refusal, for example of
            the credentials, a missing credential, or no ``dicomweb_url`` (not retryable).
    """
    if not destination.dicomweb_url:
        raise PeerError(f"{peer_name(destination)}: no dicomweb_url is set", retryable=False)
    with requests.Session() as session:
        session.headers["Accept"] = "application/dicom+json"
        # A site's proxy knows no way to our own host.
        session.trust_env = not _is_loopback(destination.dicomweb_url)
        session.auth = _credentials(destination)
        return {o.SOPInstanceUID for o in objects if _held(session, destination, o, study_uid)}


def _held(session: requests.Session, destination: Destination, wanted: ResultObject, study_uid: str) -> bool:
    base = str(destination.dicomweb_url).rstrip("/")
    # The one instance resource that every origin server must offer (PS3.18 table 10.6.1-2).
    url = f"{base}/studies/{study_uid}/series/{wanted.SeriesInstanceUID}/instances"
    peer = f"{destination.name} ({base})"
    query = {"SOPInstanceUID": wanted.SOPInstanceUID}
    try:
        answer = session.get(url, params=query, timeout=destination.timeout_seconds)
    except requests.Timeout as e:
        raise PeerError(f"{peer} did not answer within {destination.timeout_seconds:g} s") from e
    except requests.ConnectionError as e:
        raise PeerError(f"{peer}: no connection: is it running?") from e
    except requests.RequestException as e:
        raise PeerError(f"{peer} cannot be asked: {e}", retryable=False) from e
    if answer.status_code == 404:
        # The study or series is not there (yet); a wrong dicomweb_url looks the same, hence the line.
        _log.warning("qido_not_found", destination=destination.name, url=base)
        return False
    if answer.status_code == 204:
        return False
    if answer.status_code != 200:
        retryable = answer.status_code >= 500 or answer.status_code in _TRY_AGAIN
        raise PeerError(f"{peer} refused the query with HTTP {answer.status_code}", retryable=retryable)
    return wanted.SOPInstanceUID in _instances(answer, peer)


def _instances(answer: requests.Response, peer: str) -> set[str]:
    """The SOP Instance UIDs in a DICOM JSON answer (PS3.18 Annex F)."""
    try:
        found: list[dict[str, Any]] = answer.json()
        return {str(item[_SOP_INSTANCE_UID]["Value"][0]) for item in found}
    except (ValueError, LookupError, TypeError) as e:
        # A gateway's "please wait" page comes with status 200, too.
        raise PeerError(f"{peer} did not answer in DICOM JSON") from e


def _credentials(destination: Destination) -> tuple[str, str] | None:
    if destination.username_env is None:
        return None
    values = []
    for variable in (destination.username_env, destination.password_env):
        if variable is not None and variable not in os.environ:
            raise PeerError(f"{peer_name(destination)}: {variable} is not set", retryable=False)
        values.append("" if variable is None else os.environ[variable])
    return values[0], values[1]


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
