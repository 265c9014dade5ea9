"""The words, codes and numbers of an ultrasound report."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.algorithm import Code, Frame, Measurement, Segment

ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
COLORS = ((255, 80, 80), (255, 200, 60), (80, 160, 255), (90, 230, 160), (220, 120, 255), (255, 150, 40))


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


def segment(organ: Organ, number: int, side: str | None) -> Segment:
    """The outline of a lesion; ``side`` is left, right or None."""
    color = COLORS[(number - 1) % len(COLORS)]
    return Segment(number, f"{organ.lesion} {number}", ABNORMAL, organ.type, side, color)


def lesion(
    organ: Organ, number: int, side: str | None, probability: float, size: tuple[float, float], calibrated: bool
) -> tuple[Measurement, ...]:
    """Probability and axes of a lesion; ``size`` in mm, or pixels where not calibrated."""
    name = f"{organ.lesion} {number}"
    unit = "mm" if calibrated else "{pixels}"
    method = "of the outline" if calibrated else "of the outline, in pixels: the image has no scale"
    own = (number,)
    found = [Measurement(f"{name}: {organ.probability}", 100 * probability, "%", organ.code, organ.site, side, own)]
    for axis, code, value in (("longest", LONG_AXIS, size[0]), ("shortest", SHORT_AXIS, size[1])):
        found.append(
            Measurement(f"{name}: {axis} axis", value, unit, code, organ.site, side, own, from_mask=True, method=method)
        )
    return tuple(found)


def reading(organ: Organ, number: int, probability: float, band: tuple[float, float]) -> tuple[str, ...]:
    """The probability in words."""
    low, high = band
    said = organ.low if probability < low else organ.high if probability > high else "indeterminate"
    percent = f"{100 * probability:.0f}%; indeterminate {100 * low:.0f} to {100 * high:.0f}%"
    return (f"{organ.lesion} {number}: {said} ({percent}).",)


def key_frame(organ: Organ, number: int, frame: Frame, count: int, seen: tuple[int, int]) -> tuple[str, ...]:
    """Of a clip, which of its ``count`` frames is outlined, and in how many of those looked at it was ``seen``."""
    if count == 1:
        return ()
    looked, found = seen
    return (f"{organ.lesion} {number}: key frame {frame.number} of {count}, found in {found} of {looked} looked at.",)


def nothing(organ: Organ, images: int) -> str:
    """No lesion: an explicit result."""
    return f"No {organ.lesion.lower()} was found in {images} {'image' if images == 1 else 'images'}."
