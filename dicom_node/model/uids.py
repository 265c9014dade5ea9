"""UIDs that are derived, not drawn, so that a crash or a second worker makes the same object again."""

from __future__ import annotations

import uuid

NAMESPACE = uuid.UUID("6f1b5a0e-5b0c-5d7e-9c58-3f4a2f1d7c11")


def derive_uid(*parts: str) -> str:
    """A UUID-derived UID (PS3.5 Annex B.2): "2.25." and the UUIDv5 of the parts as an integer."""
    return f"2.25.{uuid.uuid5(NAMESPACE, chr(0).join(parts)).int}"
