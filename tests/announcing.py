"""A modality, or an archive, that announces images: MPPS and IAN as SCU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import InstanceAvailabilityNotification, ModalityPerformedProcedureStep

from dicom_node import checkpoint


@contextlib.contextmanager
def associated(port: int, calling: str = "CT1") -> Iterator[Any]:
    """An association of a modality that sends images and speaks of them."""
    ae = AE(calling)
    for uid in (ModalityPerformedProcedureStep, InstanceAvailabilityNotification, MRImageStorage):
        ae.add_requested_context(uid)
    association = ae.associate("127.0.0.1", port)
    assert association.is_established
    checkpoint.guard(association)
    assert not association.rejected_contexts
    try:
        yield association
    finally:
        association.release()


def item(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def performed(images: Sequence[Dataset]) -> list[Dataset]:
    """A Performed Series Sequence, with a reference to what is no image too."""
    report = item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", ReferencedSOPInstanceUID="1.2.3.999")
    found = {}
    for ds in images:
        empty = item(
            SeriesInstanceUID=ds.SeriesInstanceUID,
            ReferencedImageSequence=[],
            ReferencedNonImageCompositeSOPInstanceSequence=[report],
        )
        series = found.setdefault(ds.SeriesInstanceUID, empty)
        reference = item(ReferencedSOPClassUID=ds.SOPClassUID, ReferencedSOPInstanceUID=ds.SOPInstanceUID)
        series.ReferencedImageSequence.append(reference)
    return list(found.values())


def step(*studies: str, **changes: Any) -> Dataset:
    """The Attribute List of a new procedure step."""
    values: dict[str, Any] = {
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "ScheduledStepAttributesSequence": [item(StudyInstanceUID=uid, AccessionNumber="") for uid in studies],
        "PerformedSeriesSequence": [],
        "Modality": "MR",
        **changes,
    }
    return item(**values)


def notification(images: Sequence[Dataset], availability: str = "ONLINE") -> Dataset:
    """The Attribute List of a notification."""
    found: dict[str, Dataset] = {}
    for ds in images:
        series = item(SeriesInstanceUID=ds.SeriesInstanceUID, ReferencedSOPSequence=[])
        found.setdefault(ds.SeriesInstanceUID, series).ReferencedSOPSequence.append(
            item(
                ReferencedSOPClassUID=ds.SOPClassUID,
                ReferencedSOPInstanceUID=ds.SOPInstanceUID,
                InstanceAvailability=availability,
                RetrieveAETitle="PACS",
            )
        )
    return item(
        StudyInstanceUID=images[0].StudyInstanceUID,
        ReferencedPerformedProcedureStepSequence=[],
        ReferencedSeriesSequence=list(found.values()),
    )


def create(association: Any, attributes: Dataset, uid: str | None = None, *, ian: bool = False) -> Dataset:
    """N-CREATE; the response's status."""
    sop_class = InstanceAvailabilityNotification if ian else ModalityPerformedProcedureStep
    status, _ = association.send_n_create(attributes, sop_class, uid)
    assert isinstance(status, Dataset)
    return status


def change(association: Any, uid: str, **attributes: Any) -> Dataset:
    """N-SET; the response's status."""
    status, _ = association.send_n_set(item(**attributes), ModalityPerformedProcedureStep, uid)
    assert isinstance(status, Dataset)
    return status
