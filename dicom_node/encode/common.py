"""What SEG and SR have in common: equipment, times, and how they are written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from highdicom import ContributingEquipment
from pydicom import Dataset
from pydicom.sr.codedict import codes

from dicom_node.encode.codes import long_string
from dicom_node.encode.context import MANUFACTURER, Context
from dicom_node.encode.source import Source
from dicom_node.encode.writing import save
from dicom_node.errors import EncodeError
from dicom_node.model.result import ResultObject

T = TypeVar("T")


def build(what: str, builder: Callable[[], T]) -> T:
    """Call highdicom and translate its exceptions.

    Raises:
        EncodeError: it refused the input.
    """
    try:
        with warnings.catch_warnings():
            # Repeats values of the header, which the log must not hold.
            warnings.simplefilter("ignore")
            return builder()
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise EncodeError(f"the {what} could not be built: {type(error).__name__}: {error}") from error


def finish(ds: Dataset, source: Source, context: Context) -> None:
    """Set what highdicom leaves out or draws at random or from the clock."""
    day, time = context.when.strftime("%Y%m%d"), context.when.strftime("%H%M%S.%f")
    ds.InstanceCreationDate, ds.InstanceCreationTime = day, time
    ds.SeriesDate, ds.SeriesTime = source.series_moment if context.source_dates else (day, time)
    ds.StationName = long_string(context.node_id, 16)
    if context.institution_name:
        ds.InstitutionName = long_string(context.institution_name)
    for item in ds.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = day + time
    ds.ContributingEquipmentSequence.append(_equipment(context, day + time))
    ds.add(source.patient_name)
    if "StudyDescription" in source.first:
        ds.StudyDescription = source.first.StudyDescription
    ds.SpecificCharacterSet = source.character_set
    if "LossyImageCompression" in ds and source.lossy is not None:
        ds.update(source.lossy)


def write(ds: Dataset, role: str, out: Path) -> ResultObject:
    """Write ``<role>.dcm`` into the folder ``out``.

    Raises:
        EncodeError: the dataset cannot be encoded.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{role}.dcm"
    build(role.upper(), lambda: save(ds, path))
    return ResultObject(role, str(ds.SOPInstanceUID), str(ds.SOPClassUID), str(ds.SeriesInstanceUID), path)


def _equipment(context: Context, when: str) -> Dataset:
    """The algorithm's Contributing Equipment item (PS3.3 C.12.1; asked for by IHE AI Results)."""
    item: Dataset = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=long_string(context.identity.name),
        software_versions=long_string(context.identity.version),
        contribution_datetime=when,
        contribution_description="Algorithm that made this result. For research use only.",
    )
    item.DeviceUID = context.identity.device_uid
    return item
