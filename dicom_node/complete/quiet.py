"""The last resort of completion: no new instance for a while."""

from __future__ import annotations

from dicom_node.settings import CompleteSettings
from dicom_node.store.index import Index, StudyRow


def find_complete(index: Index, settings: CompleteSettings) -> list[tuple[StudyRow, str]]:
    """Studies that are whole, each with the evidence for it."""
    evidence = f"no new instance for {settings.quiet_seconds:g} s"
    return [(row, evidence) for row in index.quiet(settings.quiet_seconds)]
