"""What the node takes responsibility for: an instance that is synced, indexed, and whole on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sqlalchemy.exc import OperationalError

from dicom_node import log
from dicom_node.errors import OutOfResources
from dicom_node.model.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_OBJECT_INSTANCE,
    PROCESSING_FAILURE,
    SAFE,
)
from dicom_node.model.instance import Instance
from dicom_node.receive.intake import Intake
from dicom_node.store.index import Index

_AT_ONCE: Final = 500

_logger = log.get("receive")


class Voucher:
    """Looks at what is stored before the node says that it is safe. Thread-safe."""

    def __init__(self, intake: Intake, index: Index) -> None:
        self._intake = intake
        self._index = index

    def vouch(self, wanted: Sequence[tuple[str, str]]) -> list[int]:
        """Whether the node takes responsibility for instances.

        Each must have its row with the SOP Class that is asked for; its file and folder are synced, unless they were
        before its Success; then it is read back from the disk, and its content compared with the fingerprint of what
        came.

        Args:
            wanted: (SOP Class UID, SOP Instance UID) each.

        Returns:
            For each ``SAFE``, or the Failure Reason (PS3.3 section C.14.1.1): 0x0112 not here, 0x0119 of another SOP
            Class, 0x0110 damaged, or the disk failed to sync.

        Raises:
            OutOfResources: the index cannot be read now; nothing can be said.
        """
        try:
            self._intake.rows.flush()
            return [reason for part in _parts(wanted) for reason in self._vouch(part)]
        except OperationalError as e:
            raise OutOfResources("the index could not be read") from e

    def _vouch(self, wanted: Sequence[tuple[str, str]]) -> Iterator[int]:
        found = {i.SOPInstanceUID: i for i in self._index.instances([uid for _, uid in wanted])}
        there = {uid: i for uid, i in found.items() if self._intake.files.path(i.path).is_file()}
        synced = self._sync(there.values())
        for sop_class, uid in wanted:
            instance = there.get(uid)
            if instance is None:
                reason = NO_SUCH_OBJECT_INSTANCE
            elif instance.SOPClassUID != sop_class:
                reason = CLASS_INSTANCE_CONFLICT
            elif not synced or not self._is_sound(instance):
                reason = PROCESSING_FAILURE
            else:
                reason = SAFE
            yield reason

    def _sync(self, instances: Iterable[Instance]) -> bool:
        files = self._intake.files
        if files.durability == "instance":
            return True
        try:
            files.sync(i.path for i in instances)
        except OutOfResources as e:
            _logger.error("commitment_not_safe", reason=str(e))
            return False
        return True

    def _is_sound(self, instance: Instance) -> bool:
        try:
            return self._intake.is_sound(instance, from_disk=True)
        except OSError as e:
            _logger.error("commitment_not_safe", SOPInstanceUID=instance.SOPInstanceUID, reason=e.strerror)
            return False


def _parts(wanted: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    for at in range(0, len(wanted), _AT_ONCE):
        yield wanted[at : at + _AT_ONCE]
