"""The words, codes and numbers of an ultrasound report."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.algorithm import Code, Frame, Measurement, Segment

ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")


@dataclass(frozen=True)
class Organ:
    """How an organ's results are named.

    Attributes:
        lesion: what is looked for.
        site, type, code: finding site, Segmented Property Type, and the code of the probability.
        probability: its name.
        low, high: what is said below and above the indeterminate band.
        limits: sentences that stand in every report.
    """

    lesion: str
    site: Code
    type: Code
    code: Code
    probability: str
    low: str
    high: str
    limits: tuple[str, ...]


def segment(organ: Organ, number: int) -> Segment:
    """The outline of a lesion."""
    return Segment(number, f"{organ.lesion} {number}", ABNORMAL, organ.type)


def lesion(
    organ: Organ, number: int, probability: float | None, size: tuple[float, float], calibrated: bool
) -> tuple[Measurement, ...]:
    """Probability (unless it must not be told) and axes of a lesion; ``size`` in mm, or pixels where not calibrated."""
    name = f"{organ.lesion} {number}"
    unit = "mm" if calibrated else "{pixels}"
    common = {"site": organ.site, "segments": (number,), "group": name}
    found = []
    if probability is not None:
        found.append(
            Measurement(f"{name}: {organ.probability}", 100 * probability, "%", organ.code, **common)  # type: ignore[arg-type]
        )
    for axis, code, value in (("longest", LONG_AXIS, size[0]), ("shortest", SHORT_AXIS, size[1])):
        method = "of the outline" if calibrated else "of the outline, in pixels: the image has no scale"
        found.append(Measurement(f"{name}: {axis} axis", value, unit, code, method=method, **common))  # type: ignore[arg-type]
    return tuple(found)


def reading(organ: Organ, number: int, probability: float | None, band: tuple[float, float]) -> tuple[str, ...]:
    """The probability in words."""
    if probability is None:
        return ()
    low, high = band
    said = organ.low if probability < low else organ.high if probability > high else "indeterminate"
    percent = f"{100 * probability:.0f}%; indeterminate {100 * low:.0f} to {100 * high:.0f}%"
    return (f"{organ.lesion} {number}: {said} ({percent}).",)


def unlike(frame: Frame, lesions: int) -> str:
    """A picture that looks unlike the training data is said to be so rather than scored."""
    outlined = " Its outline is shown without a probability." if lesions else ""
    return f"An image (frame {frame.number}) looks unlike the images this algorithm was trained on.{outlined}"


def nothing(organ: Organ, images: int) -> str:
    """No lesion: an explicit result."""
    return f"No {organ.lesion.lower()} was found in {images} {'image' if images == 1 else 'images'}."
