"""Objects to a destination, whichever way it takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dicom_node.deliver import dimse
from dicom_node.deliver.orthanc import send_to_orthanc
from dicom_node.deliver.stow import send_by_stow
from dicom_node.peer.outcomes import Failure
from dicom_node.settings import Destination


def send(destination: Destination, calling_ae_title: str, paths: Sequence[Path]) -> dict[str, Failure]:
    """Send Part 10 files the way that ``destination.kind`` says.

    Returns:
        By SOP Instance UID: ``""`` when stored, else why not (a text, whose ``retryable`` says whether trying again
        can help).

    Raises:
        PeerError: nothing could be sent.
    """
    if destination.kind == "stow":
        return send_by_stow(destination, paths)
    if destination.kind == "orthanc":
        return send_to_orthanc(destination, paths)
    return dimse.send(destination, calling_ae_title, paths)
