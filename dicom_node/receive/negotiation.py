"""What the listener accepts of the presentation contexts that a peer proposes (PS3.8 section 7.1.1.13)."""

from __future__ import annotations

from typing import Any, Final

import pynetdicom.sop_class
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import _STORAGE_CLASSES

from dicom_node.receive.elements import GE_PRIVATE_IMPLICIT

UNCOMPRESSED: Final = (
    str(ExplicitVRLittleEndian),
    str(ImplicitVRLittleEndian),
    str(ExplicitVRBigEndian),
    str(DeflatedExplicitVRLittleEndian),
)
TRANSFER_SYNTAXES: Final = (
    # Of several in one context the first here is taken: a sender must not be asked to compress what it has whole.
    *UNCOMPRESSED,
    *(uid for uid in ALL_TRANSFER_SYNTAXES if uid not in UNCOMPRESSED),
    GE_PRIVATE_IMPLICIT,
)
_STORAGE_SERVICE = "1.2.840.10008.4.2"
_STORAGE_UIDS = frozenset(str(uid) for uid in _STORAGE_CLASSES.values())
_OTHER_UIDS = frozenset(str(v) for v in vars(pynetdicom.sop_class).values() if isinstance(v, UID)) - _STORAGE_UIDS


def support_storage(event: Any) -> None:
    """Support what this association proposes, as far as it is storage."""
    acceptor = event.assoc.acceptor
    supported = {str(c.abstract_syntax): c for c in acceptor.supported_contexts}
    wanted: dict[str, set[str]] = {}
    for proposed in event.assoc.requestor.primitive.presentation_context_definition_list:
        uid = str(proposed.abstract_syntax)
        if uid not in supported and _is_storage(uid):
            wanted.setdefault(uid, set()).update(str(t) for t in proposed.transfer_syntax)
    contexts = list(supported.values())
    for uid, proposed_syntaxes in wanted.items():
        syntaxes = [t for t in TRANSFER_SYNTAXES if t in proposed_syntaxes]
        if syntaxes:
            contexts.append(build_context(uid, syntaxes))
    acceptor.supported_contexts = contexts


def on_common_negotiation(event: Any) -> dict[UID, SOPClassCommonExtendedNegotiation]:
    """Tell pynetdicom that the SOP Classes it does not know belong to the storage service.

    Nothing of this is sent: SOP Class Common Extended Negotiation has no answer (PS3.7 section D.3.3.6).
    """
    known = {}
    for context in event.assoc.acceptor.supported_contexts:
        uid = context.abstract_syntax
        if uid not in _STORAGE_UIDS and _is_storage(uid):
            item = SOPClassCommonExtendedNegotiation()
            item.sop_class_uid = uid
            item.service_class_uid = _STORAGE_SERVICE
            known[uid] = item
    return known


def _is_storage(uid: str) -> bool:
    """Whether the SOP Class is a storage class, or is taken for one because nothing else knows it."""
    return uid not in _OTHER_UIDS
