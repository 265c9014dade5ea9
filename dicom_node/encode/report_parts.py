"""Content items that the Measurement Report and the contour report have in common (PS3.16)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from dicom_node.algorithm import Code, Measurement
from dicom_node.encode.codes import concept, laterality, long_string, unit
from dicom_node.encode.context import MANUFACTURER, Context
from dicom_node.encode.uids import ResultUids
from dicom_node.errors import EncodeError
from dicom_node.model.result import readable

CONTAINS = sr.RelationshipTypeValues.CONTAINS


def measurement_item(
    m: Measurement, uids: ResultUids, images: Sequence[sr.SourceImageForMeasurement] | None = None
) -> sr.Measurement:
    """TID 300; ``images`` are what the number was computed from (TID 320).

    Raises:
        EncodeError: the value is not finite.
    """
    if not math.isfinite(m.value):
        raise EncodeError(f"{m.name} is {m.value}: no number for a report")
    return sr.Measurement(
        name=concept(m.code),
        value=float(f"{m.value:.6g}"),
        unit=unit(m.unit),
        tracking_identifier=sr.TrackingIdentifier(uid=uids.measurement(m.name), identifier=m.name),
        derivation=None if m.derivation is None else concept(m.derivation),
        finding_sites=sites([m]),
        referenced_images=images,
    )


def algorithm_identification(context: Context) -> sr.AlgorithmIdentification:
    """TID 4019."""
    identity = context.identity
    weights = [f"weights SHA-256 {identity.weights_digest}"] if identity.weights_digest else None
    return sr.AlgorithmIdentification(
        name=long_string(identity.name),
        version=long_string(identity.version),
        parameters=weights,
        manufacturer=MANUFACTURER,
    )


def sentences(m: Measurement) -> list[str]:
    """What a viewer shows that prints no more than texts."""
    value = f"{m.name} {readable(m.value)}{'' if m.unit == '1' else ' ' + m.unit}"
    said = [f"{value} ({m.method})" if m.method else value]
    if m.flag is not None:
        said.append(f"To be reviewed: {m.flag}.")
    return said


def sites(measurements: Sequence[Measurement]) -> list[sr.FindingSite]:
    """The finding sites of measurements, each once."""
    return [site(code, side) for code, side in dict.fromkeys((m.site, m.laterality) for m in measurements)]


def site(code: Code, side: str | None) -> sr.FindingSite:
    """Where, and on which side."""
    return sr.FindingSite(anatomic_location=concept(code), laterality=laterality(side))


def comment(text: str) -> Dataset:
    """A Comment for people."""
    item: Dataset = sr.TextContentItem(codes.DCM.Comment, text, relationship_type=CONTAINS)
    return item
