"""Which organ ultrasound images show, and of which side, as far as their headers tell.

Ultrasound presets are often those of the patient before, and many images name nothing at all: what is coarse (neck,
chest) or contradictory counts as silence about the organ, and then the pixels must tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dicom_node.model.body_part import OTHER, coded_part, named_part
from dicom_node.model.evidence import UNKNOWN, Evidence, fold, tokens, values, words

CODES: Final = ("AnatomicRegionSequence", "ProcedureCodeSequence")
DESCRIPTIONS: Final = ("SeriesDescription", "ProtocolName", "PerformedProcedureStepDescription", "StudyDescription")
KEYWORDS: Final = (
    *("Modality", "ImageType", "BodyPartExamined", *DESCRIPTIONS),
    *("TransducerType", "TransducerData", "ImageLaterality", "Laterality"),
)
"""What is read beside ``CODES``."""

ORGANS: Final = ("breast", "thyroid")
_COARSE: Final = frozenset({"neck", "chest", "head", "brain", "spine"})
"""A thyroid is also sent as "head and neck" or "US cervical", a breast as "thorax"."""

# PS3.3 C.8.5.6.1.1, third value of Image Type: the scanner's application. What suits several parts is not listed.
_APPLICATIONS: Final[Mapping[str, str]] = {
    "BREAST": "breast",
    "THYROID": "thyroid",
    "ABDOMINAL": "abdomen",
    "RETROPERITONEAL": "abdomen",
    "GYNECOLOGY": "pelvis",
    "OBSTETRICAL": "pelvis",
    "FETAL HEART": "pelvis",
    "PELVIC": "pelvis",
    "ENDOVAGINAL": "pelvis",
    "ENDORECTAL": "pelvis",
    "ENDOCAVITARY": "pelvis",
    "SCROTAL": "pelvis",
    "TTE": "heart",
    "TEE": "heart",
    "EPICARDIAL": "heart",
    "INTRACARDIAC": "heart",
    "TRANSCRANIAL": "brain",
    "NEONATAL HEAD": "brain",
    "MUSCULOSKELETAL": "extremity",
    "INTRAVASCULAR": OTHER,
    "OPHTHALMIC": OTHER,
}
_DEEP_PROBES: Final = frozenset({"SECTOR_PHASED", "SECTOR_MECH", "SECTOR_ANNULAR", "IVUS", "NONE"})
"""Transducer Type (PS3.3 C.8.5.6): neither breast nor thyroid is imaged with these."""

LEFT, RIGHT, BOTH = "left", "right", "both"
_SIDE_CODES: Final[Mapping[str, str]] = {
    **{"7771000": LEFT, "G-A101": LEFT, "80248007": LEFT, "79163004": LEFT},
    **{"24028007": RIGHT, "G-A100": RIGHT, "73056007": RIGHT, "29565003": RIGHT},
    **{"51440002": BOTH, "G-A102": BOTH, "63762007": BOTH},
}
"""Qualifiers of side (PS3.16 CID 244), and codes of breasts and thyroid lobes that have one."""
_SIDE_LETTERS: Final = {"L": LEFT, "R": RIGHT, "B": BOTH}
# Whole words or beginnings (with *), folded. Two-letter words of most languages are left out: they mean too much else.
_SIDE_WORDS: Final[Mapping[str, str]] = {
    BOTH: "bilateral* bilat both beidseit* beide beider bds obustron* dwustron* oboustran* двусторон* обе",
    LEFT: "left lt links linke linken linker gauche izquierd* izda sinistr* esquerd* vanster venstre vasen lewy lewa "
    "lewej lewego levy leva leve лев*",
    RIGHT: "right rt rechts rechte rechten rechter droit droite derech* dcha destr* direit* hoger hojre hoyre oikea "
    "prawy prawa prawej prawego pravy prava prave прав*",
}
_SIDE_CHARACTERS: Final = {BOTH: ("双侧", "两侧", "両側", "양측"), LEFT: ("左", "좌측"), RIGHT: ("右", "우측")}


def infer_organ(images: Sequence[Mapping[str, Any]]) -> Evidence:
    """The part of the body that ultrasound images of one series (or a single one) show, one of ``BODY_PARTS``.

    Evidence in order: codes of region and procedure, BodyPartExamined, descriptions in many languages, the scanner's
    application, the probe. Breast and thyroid go before the coarser part that holds them. Where images or words
    contradict one another, the answer is ``unknown`` with what they say.

    Args:
        images: header values by keyword, as the index keeps them.
    """
    found: dict[str, Evidence] = {}
    for tags in images:
        evidence = _of_one(tags)
        if evidence.source:
            found.setdefault(evidence.value, evidence)
    named = [found[organ] for organ in ORGANS if organ in found]
    if len(named) > 1:
        return Evidence(UNKNOWN, "images of breast and of thyroid")
    return named[0] if named else next(iter(found.values()), Evidence(UNKNOWN, ""))


def _of_one(tags: Mapping[str, Any]) -> Evidence:
    coarse: Evidence | None = None
    for part, source in _spoken(tags):
        if part == UNKNOWN:
            return Evidence(UNKNOWN, source)
        if part not in _COARSE:
            return Evidence(part, source)
        # "US cervical" is of the neck, not of the spine, which ultrasound does not see
        coarse = coarse or Evidence("neck" if part == "spine" else part, source)
    return coarse or Evidence(UNKNOWN, "")


def _spoken(tags: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each tag names, the strongest first; ``unknown`` where one names both organs."""
    found = []
    for keyword in CODES:
        for code in values(tags, keyword):
            coded = coded_part(code)
            if coded:
                found.append((coded[0], f"{keyword}: {coded[1]}"))
            elif isinstance(code, Mapping):
                found += _named(str(code.get("CodeMeaning", "")), keyword)
    for keyword in ("BodyPartExamined", *DESCRIPTIONS):
        for text in values(tags, keyword):
            found += _named(str(text), keyword)
    application = next(iter(words(tags, "ImageType")[2:3]), "")
    if application in _APPLICATIONS:
        found.append((_APPLICATIONS[application], f"ImageType: {application}"))
    for probe in words(tags, "TransducerType")[:1]:
        if probe in _DEEP_PROBES:
            found.append((OTHER, f"TransducerType: {probe}"))
    # linear probes serve breast, thyroid and much else; which letters a maker gives the others is not standardised
    return found


def _named(text: str, keyword: str) -> list[tuple[str, str]]:
    organs = [hit for organ in ORGANS if (hit := named_part(text, (organ,)))]
    if len(organs) > 1:
        return [(UNKNOWN, f"{keyword}: {organs[0][1]} and {organs[1][1]}")]
    hit = organs[0] if organs else named_part(text)
    return [(hit[0], f"{keyword}: {hit[1]}")] if hit else []


def infer_side(tags: Mapping[str, Any]) -> Evidence:
    """``left``, ``right``, ``both`` or ``unknown``: of one image.

    Evidence in order: ImageLaterality, Laterality, codes that have a side, descriptions from the series to the study.
    """
    for keyword in ("ImageLaterality", "Laterality"):
        for letter in words(tags, keyword)[:1]:
            if letter in _SIDE_LETTERS:
                return Evidence(_SIDE_LETTERS[letter], f"{keyword}: {letter}")
    for keyword in ("AnatomicRegionModifierSequence", *CODES):
        for code in values(tags, keyword):
            value = str(code.get("CodeValue", "")) if isinstance(code, Mapping) else str(code)
            if value in _SIDE_CODES:
                return Evidence(_SIDE_CODES[value], f"{keyword}: {value}")
    for keyword in DESCRIPTIONS:
        for text in values(tags, keyword):
            side = _side_in(str(text))
            if side:
                return Evidence(side, f"{keyword}: {side}")
    return Evidence(UNKNOWN, "")


def _side_in(text: str) -> str | None:
    """The side that a text names; ``both`` where it names left and right."""
    found, folded = tokens(text), fold(text)
    sides = {
        side
        for side, listed in _SIDE_WORDS.items()
        for word in listed.split()
        if any(t.startswith(word[:-1]) if word.endswith("*") else t == word for t in found)
    }
    sides |= {side for side, listed in _SIDE_CHARACTERS.items() if any(fold(c) in folded for c in listed)}
    if BOTH in sides or len(sides) > 1:
        return BOTH
    return next(iter(sides), None)
