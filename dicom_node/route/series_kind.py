"""What a series is: its contrast, or that it is a localizer, a cine, a map, a result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import sub
from typing import Any, Final

from dicom_node.model.evidence import UNKNOWN, Evidence, fold, number, numbers, spaced, values, words
from dicom_node.model.instance import Instance, Series

SERIES_KINDS: Final = (
    "t1_volume",  # T1, thin or many slices
    "t1_slices",  # T1, few thick slices
    "t2",
    "t2_star",
    "flair",
    "pd",
    "dwi",
    "dynamic",  # perfusion, BOLD: the same places again and again
    "angiography",
    "volume",  # a stack of slices of unknown contrast
    "cine",
    "localizer",
    "derived",  # a map, a phase image, a projection, a screen capture
    "single_image",
    "result",  # SEG, SR, RTSTRUCT
    "no_pixels",
    UNKNOWN,
)
"""What a rule may ask for."""

_RESULT_MODALITIES = frozenset({"SEG", "SR", "RTSTRUCT"})
_MAPS = frozenset(
    {"ADC", "FA", "MIP", "MINIP", "MAXIMUM", "PROJECTION IMAGE", "CBF", "CBV", "MTT", "TTP", "T1 MAP", "T2 MAP"}
    | {"P", "PHASE", "SCREEN SAVE", "SUBTRACTION", "TENSOR", "FA_MAP", "COLFA", "CSA MIP", "CSA RESAMPLED", "PHASE MAP"}
)
_FEW = 3
"""Fewer images are no stack."""
_THIN_MM = 3.5
_MANY = 60
"""Slices of a whole head at 3 mm; a routine set of thick slices has 20 to 40."""

_EDGE = r"(?<![^\W_])"  # no letter or digit before
_NAMES: Final[Sequence[tuple[str, re.Pattern[str]]]] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (
            "localizer",
            rf"{_EDGE}(scouts?|localis\w*|localiz\w*|lokali\w*|survey|loc|pilot|plan ?scan|3.?plane|3.?pl|topogram|"
            r"scanogram|ubersicht\w*|reperage|localizador|localizzatore|smartbrain)(?![^\W\d_])|aahead|aascout|"
            r"aaspine|定位|位置決め|локал",
        ),
        (
            "derived",
            rf"{_EDGE}(mip|minip|e?adc|fa(?! ?=?\d)|cbf|cbv|mtt|ttp|tmax|t[12]\*? ?map\w*|screen ?save|subtraction)"
            r"(?![^\W_])",
        ),
        ("dwi", rf"{_EDGE}(dwi?|dti|diff\w*|difus\w*|trace\w*|b ?[1-9]\d{{2,3}})(?![^\W_])|弥散|拡散"),
        ("dynamic", rf"{_EDGE}(bold|(rs ?)?f ?mri|perf\w*|p?c?asl|dsc|dce|epfid\w*|resting)(?![^\W_])|灌注|灌流"),
        ("t2_star", rf"{_EDGE}(t2 ?\*|t2 ?star\w*|swi\w*|swan|hemo|haemo|venobold|swip)|t2\*|t2st"),
        ("angiography", rf"{_EDGE}(tof\w*|mra|cemra|mrv|angio\w*|pca|venography|fl3d1r\w*)(?![^\W_])|血管"),
        ("derived", rf"mp2.?rage.*{_EDGE}t1 ?images|{_EDGE}t1 ?images.*mp2.?rage"),
        ("volume", rf"mp2.?rage.*{_EDGE}inv ?\d|{_EDGE}inv ?\d.*mp2.?rage"),  # only UNI is T1-weighted
        ("t1_volume", rf"{_EDGE}(e?t1w?|3?dt1w?)(?![0-9])(?=.*flair)"),  # T1 FLAIR is T1
        ("flair", r"flair|dark.?fluid|tirm.*dark|dark.*tirm|spcir"),
        (
            "t1_volume",
            rf"{_EDGE}(e?t1w?|3?dt1w?)(?![0-9])|t1tfe|t1ffe|t1tse|mp2?.?rage|{_EDGE}(ir.?)?f?spgr|{_EDGE}bravo|"
            rf"tfl3d|{_EDGE}vibe|{_EDGE}tfe|{_EDGE}cube t1|{_EDGE}mdeft",
        ),
        ("t2", rf"{_EDGE}(e?t2w?|3?dt2w?)(?![0-9])|{_EDGE}(haste|ciss|fiesta|drive|stir|fr?fse|trufi|btfe|bffe)"),
        ("pd", rf"{_EDGE}(pdw?|proton\w*|dp|rho)(?![^\W_])"),
    )
)
_CONTRASTS: Final[Mapping[str, str]] = {
    "T1": "t1_volume",
    "T2": "t2",
    "T2_STAR": "t2_star",
    "PROTON_DENSITY": "pd",
    "FLUID_ATTENUATED": "flair",
    "DIFFUSION": "dwi",
    "PERFUSION": "dynamic",
    "TOF": "angiography",
}
"""Acquisition Contrast (PS3.3 C.8.13.4.2.2), which some vendors send in single-frame objects too."""


def infer_series_kind(series: Series) -> Evidence:
    """What the series is, one of ``SERIES_KINDS``."""
    images = [i for i in series.instances if number(i.tags, "Rows")]
    modality = next(iter(words(series.tags, "Modality")), "")
    if modality in _RESULT_MODALITIES:
        return Evidence("result", f"Modality: {modality}")
    if not images:
        return Evidence("no_pixels", "no instance has Rows")
    stack = without_localizers(images)
    tags = stack[0].tags
    kind = _not_a_stack(stack, tags, modality)
    if kind:
        return kind
    if modality != "MR":
        return Evidence("volume", f"{modality}, {_frames(stack)} images")
    contrast = _contrast(stack, tags) or Evidence("volume", "no tag tells the contrast")
    if contrast.value == "t1_volume" and not _is_volumetric(stack, tags):
        return Evidence("t1_slices", f"{contrast.source}; {_frames(stack)} thick slices")
    return contrast


def without_localizers(images: Sequence[Instance]) -> Sequence[Instance]:
    """The images that are not marked as localizer, or all of them if all are."""
    return [i for i in images if "LOCALIZER" not in words(i.tags, "ImageType")] or images


def slice_count(series: Series) -> int:
    """How many image planes the series holds: frames of multi-frame objects count, localizers do not."""
    return _frames(without_localizers([i for i in series.instances if number(i.tags, "Rows")]))


def _frames(images: Sequence[Instance]) -> int:
    return sum(int(number(i.tags, "NumberOfFrames") or 1) for i in images)


def _not_a_stack(images: Sequence[Instance], tags: Mapping[str, Any], modality: str) -> Evidence | None:
    """Kinds that counts, Image Type and geometry tell, before the contrast matters."""
    image_type = words(tags, "ImageType")
    if "LOCALIZER" in image_type:
        return Evidence("localizer", "ImageType: LOCALIZER")
    named = _from_names(tags)
    if named and named.value == "localizer":
        return named
    if len(images) <= 30 and _several_planes(images):
        return Evidence("localizer", f"ImageOrientationPatient: several planes in {len(images)} images")
    maps = [v for v in image_type if v in _MAPS]
    if maps and "TRACEW" not in image_type:
        return Evidence("derived", f"ImageType: {maps[0]}")
    if any(v in ("SC", "OT") for v in words(tags, "Modality")):
        return Evidence("derived", "Modality: secondary capture")
    cine = _cine(images, tags, modality)
    if cine:
        return cine
    frames = _frames(images)
    if frames == 1:
        return Evidence("single_image", "one image")
    return Evidence(UNKNOWN, f"{frames} images") if frames < _FEW else None


def _several_planes(images: Sequence[Instance]) -> bool:
    cosines = [numbers(i.tags, "ImageOrientationPatient") for i in images]
    first = cosines[0]
    return any(len(c) == len(first) and max(map(abs, map(sub, c, first)), default=0) > 0.2 for c in cosines)


def _cine(images: Sequence[Instance], tags: Mapping[str, Any], modality: str) -> Evidence | None:
    phases = number(tags, "CardiacNumberOfImages") or 0
    if phases > 1:
        return Evidence("cine", f"CardiacNumberOfImages: {phases:.0f}")
    times = {number(i.tags, "TriggerTime") for i in images} - {None}
    places = {tuple(round(v, 1) for v in numbers(i.tags, "ImagePositionPatient")) for i in images}
    if len(times) > _FEW and len(places) < len(images):
        return Evidence("cine", f"TriggerTime: {len(times)} phases")
    synchronised = next(iter(words(tags, "CardiacSynchronizationTechnique")), "NONE")
    if synchronised != "NONE" and _frames(images) > _FEW:
        return Evidence("cine", f"CardiacSynchronizationTechnique: {synchronised}")
    if modality in ("US", "XA", "RF", "IVUS") and any((number(i.tags, "NumberOfFrames") or 1) > 1 for i in images):
        return Evidence("cine", f"NumberOfFrames, Modality: {modality}")
    return None


def _contrast(images: Sequence[Instance], tags: Mapping[str, Any]) -> Evidence | None:
    for value in words(tags, "AcquisitionContrast"):
        if value in _CONTRASTS:
            return Evidence(_CONTRASTS[value], f"AcquisitionContrast: {value}")
    for value in words(tags, "ImageType"):
        if value in ("DIFFUSION", "TRACEW"):
            return Evidence("dwi", f"ImageType: {value}")
    strongest = max((number(i.tags, "DiffusionBValue") or 0.0 for i in images), default=0.0)
    if strongest > 50:
        return Evidence("dwi", f"DiffusionBValue: {strongest:.0f}")
    named = _from_names(tags)
    if named:
        return named
    if (number(tags, "NumberOfTemporalPositions") or 1) > 2:
        return Evidence("dynamic", "NumberOfTemporalPositions")
    return _from_timing(tags)


def _from_names(tags: Mapping[str, Any]) -> Evidence | None:
    """By the names that people and vendors give: the series' own name counts before the protocol's."""
    for keyword in ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName"):
        text = fold(spaced(" ".join(map(str, values(tags, keyword)))))
        for kind, pattern in _NAMES:
            found = pattern.search(text)
            if found:
                return Evidence(kind, f"{keyword}: {found.group(0).strip()}")
    return None


def _from_timing(tags: Mapping[str, Any]) -> Evidence | None:
    """By RepetitionTime, EchoTime, InversionTime (ms) and FlipAngle (degrees), with margins between the kinds."""
    tr, te = number(tags, "RepetitionTime"), number(tags, "EchoTime")
    if tr is None or te is None:
        return None
    ti, flip = number(tags, "InversionTime") or 0.0, number(tags, "FlipAngle") or 0.0
    sequence = words(tags, "ScanningSequence")
    source = f"RepetitionTime {tr:g} ms, EchoTime {te:g} ms" + (f", InversionTime {ti:g} ms" if ti else "")
    if "EP" in sequence:
        return None
    if ti >= 1500 and te >= 60 and tr >= 4000:
        return Evidence("flair", source)
    if "GR" in sequence:
        prepared = 300 <= ti <= 1400 and te < 10
        spoiled = tr <= 50 and te < 10 and 5 <= flip <= 35
        if prepared or spoiled:
            return Evidence("t1_volume", f"{source}, FlipAngle {flip:g}")
        return Evidence("t2_star", source) if te >= 15 else None
    if "SE" not in sequence:
        return None
    if tr < 900 and te < 40:
        return Evidence("t1_volume", source)
    if tr > 1800 and te > 60:
        return Evidence("t2", source)
    return Evidence("pd", source) if tr > 1800 and te < 45 and not ti else None


def _is_volumetric(images: Sequence[Instance], tags: Mapping[str, Any]) -> bool:
    """Thin slices, or as many as only a volume has."""
    if _frames(images) >= _MANY:
        return True
    step = number(tags, "SpacingBetweenSlices") or number(tags, "SliceThickness")
    if step is None:
        return "3D" in words(tags, "MRAcquisitionType")
    return step <= _THIN_MM and _frames(images) * step >= 20
