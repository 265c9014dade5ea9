"""Part 10 files, read where they are: only the header comes into memory, however large the file is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dicom_node.errors import InvalidInstance
from dicom_node.model.instance import Instance
from dicom_node.receive.header import make_instance, read_file_head
from dicom_node.store.files import FileView

_LONGEST_HEAD = 1 << 16


def read_part10(file: Path, path: str | Callable[[str, str, str], str]) -> Instance:
    """Everything the index keeps about a file (PS3.10 section 7).

    Args:
        path: what the instance's ``path`` becomes, or what tells it from Study, Series and SOP Instance UID.

    Raises:
        InvalidInstance: not DICOM, truncated, a UID is missing or is none, or the file cannot be read.
    """
    try:
        with file.open("rb") as f:
            head = read_file_head(f.read(_LONGEST_HEAD))
            size = f.seek(0, 2)
            return make_instance(
                FileView(f.fileno(), head.dataset_at, max(0, size - head.dataset_at)),
                TransferSyntaxUID=head.TransferSyntaxUID,
                path=path,
                size=size,
                source=head.SourceApplicationEntityTitle,
                called=head.ReceivingApplicationEntityTitle,
            )
    except OSError as e:
        raise InvalidInstance(f"cannot be read: {e.strerror}") from e
