"""What a DICOM peer's answers mean for a delivery: stored or not, and whether trying again can help.

The one place where pynetdicom's and the standard's outcomes become ours. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.uid import UID

from dicom_node.errors import PeerError


class Failure(str):
    """Why an instance was not stored; the text itself, empty when it was stored.

    A text, so that it may be kept in a row or shown as it is.
    ``retryable``: False when trying again cannot help, until a person changed something.
    """

    retryable: bool

    def __new__(cls, message: str, *, retryable: bool) -> Failure:
        self = super().__new__(cls, message)
        self.retryable = retryable
        return self


_YOUNG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage (seg_encoding: labelmap)"}
"""Names of SOP Classes that pydicom does not know yet."""

STORED = Failure("", retryable=False)

# PS3.4 Annex B.2.3 and PS3.7 Annex C.4.
_WARNINGS = {
    0x0001: "requested optional attributes are not supported",
    0x0107: "attribute list error",
    0x0116: "attribute value out of range",
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "dataset does not match the SOP Class",
    # Some archives answer this to a re-send. Our UIDs are derived from the content's origin, so it has our object.
    0x0111: "duplicate SOP Instance",
}
_PERMANENT = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0112: "no such SOP Instance",
    0x0113: "no such event type",
    0x0114: "no such argument",
    0x0115: "invalid argument value",
    0x0117: "invalid SOP Instance",
    0x0118: "no such SOP Class",
    0x0119: "class-instance conflict",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    0x0122: "SOP Class not supported",
    0x0123: "no such action",
    0x0124: "not authorised",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}
_TRANSIENT = {0x0110: "processing failure", 0x0210: "duplicate invocation", 0x0213: "resource limitation"}


def store_warning(status: int) -> str:
    """What a warning status says; the instance is stored all the same. Empty for any other status."""
    if status in _WARNINGS:
        return f"0x{status:04X} {_WARNINGS[status]}"
    return f"0x{status:04X} warning" if 0xB000 <= status <= 0xBFFF else ""


def store_outcome(status: int, comment: str = "") -> Failure:
    """The outcome that a C-STORE response's Status (PS3.4 Annex B.2.3, PS3.7 Annex C) means.

    Out of resources (0xA7xx) passes; a dataset that does not match its SOP Class (0xA9xx), or that the peer
    cannot understand (0xCxxx), is the same tomorrow. A status that the standard does not know is tried again.
    """
    if status == 0x0000 or store_warning(status):
        return STORED
    if status in _PERMANENT:
        meaning, retryable = _PERMANENT[status], False
    elif 0xA700 <= status <= 0xA7FF:
        meaning, retryable = "out of resources", True
    elif 0xA900 <= status <= 0xA9FF:
        meaning, retryable = "dataset does not match the SOP Class", False
    elif 0xC000 <= status <= 0xCFFF:
        meaning, retryable = "cannot understand", False
    else:
        meaning, retryable = _TRANSIENT.get(status, "unknown status"), True
    said = f": {comment}" if comment else ""
    return Failure(f"refused with 0x{status:04X} {meaning}{said}", retryable=retryable)


# PS3.8 Table 9-21: (source, reason) of an A-ASSOCIATE-RJ.
_REJECTIONS = {
    (1, 1): "no reason given",
    (1, 2): "application context not supported",
    (1, 3): "it does not know our AE title (calling AE title not recognised)",
    (1, 7): "its AE title is another one (called AE title not recognised)",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "too many associations (local limit exceeded)",
}


def rejection(peer: str, result: int, source: int, reason: int) -> PeerError:
    """The error for an A-ASSOCIATE-RJ (PS3.8 section 9.3.4).

    A permanent rejection (result 1) is not retried, but for congestion (source 3): that passes, whatever the
    peer calls it.
    """
    retryable = result == 2 or source == 3
    kind = "for now" if retryable else "permanently"
    why = _REJECTIONS.get((source, reason), f"source {source}, reason {reason}")
    return PeerError(f"{peer} rejected the association {kind}: {why}", retryable=retryable)


def not_accepted(sop_class: str, transfer_syntax: str) -> Failure:
    """The outcome for a presentation context that the peer did not accept (PS3.8 section 9.3.3.2)."""
    name = _YOUNG_CLASSES.get(sop_class, UID(sop_class).name)
    return Failure(f"{name} in {UID(transfer_syntax).name} is not accepted", retryable=False)


def none_accepted(peer: str, contexts: Iterable[tuple[str, str]]) -> PeerError:
    """The error for an association without one accepted context: (SOP Class UID, Transfer Syntax UID) pairs."""
    what = "; ".join(not_accepted(*c) for c in contexts)
    return PeerError(f"{peer}: {what}", retryable=False)
