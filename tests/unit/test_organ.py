"""Breast or thyroid, and of which side, from the headers of ultrasound images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from dicom_node.model.body_part import BODY_PARTS
from dicom_node.model.evidence import fold
from dicom_node.model.organ import _APPLICATIONS, _SIDE_CHARACTERS, _SIDE_WORDS, infer_organ, infer_side
from dicom_node.route.decide import decide
from dicom_node.route.rules import load_rules
from dicom_node.run.frames import open_clip
from dicom_node.testing.phantom_ultrasound import Probe, dataset, draw
from dicom_node.testing.series import save
from tests.routing import series

CASES: list[tuple[dict[str, Any], str, str]] = [
    *[
        ({"StudyDescription": text}, "breast", "StudyDescription")
        for text in (
            "US BREAST LEFT LIMITED",
            "Mammasonographie bds.",
            "Sonographie der Brust",
            "Echographie du sein droit",
            "Échographie mammaire",
            "Ecografía de mama",
            "ECOGRAFIA MAMARIA BILATERAL",
            "Ecografia mammaria",
            "Ultrassom das mamas",
            "Echo borst links",
            "USG piersi",
            "УЗИ молочных желез",
            "乳腺超声",
            "乳房エコー",
            "유방초음파",
            "Siêu âm tuyến vú",
            "Bröst ultraljud",
            "Meme USG",
        )
    ],
    *[
        ({"StudyDescription": text}, "thyroid", "StudyDescription")
        for text in (
            "US THYROID",
            "Schilddrüsensonographie",
            "Schilddruese",
            "Sonographie Schilddrüse",
            "Échographie thyroïdienne",
            "Ecografía tiroidea y cervical",
            "Ecografia della tiroide",
            "Ultrassom de tireoide",
            "Echo schildklier",
            "USG tarczycy",
            "УЗИ щитовидной железы",
            "甲状腺超声",
            "甲状腺エコー",
            "갑상선 초음파",
            "Siêu âm tuyến giáp",
            "Ultraljud tyreoidea",
            "Tiroid USG",
            "US head and neck: thyroid",
        )
    ],
    ({"AnatomicRegionSequence": [{"CodeValue": "29565003"}]}, "thyroid", "AnatomicRegionSequence: 29565003"),
    ({"AnatomicRegionSequence": [{"CodeValue": "80248007"}], "BodyPartExamined": "THYROID"}, "breast", "80248007"),
    ({"AnatomicRegionSequence": [{"CodeValue": "X1", "CodeMeaning": "Left Breast"}]}, "breast", "breast"),
    ({"ProcedureCodeSequence": [{"CodeValue": "25010-0", "CodeMeaning": "US Thyroid"}]}, "thyroid", "ProcedureCode"),
    ({"BodyPartExamined": "CHEST", "StudyDescription": "US breast"}, "breast", "StudyDescription"),
    ({"BodyPartExamined": "NECK", "SeriesDescription": "thyroid right lobe"}, "thyroid", "SeriesDescription"),
    ({"BodyPartExamined": "NECK"}, "neck", "BodyPartExamined: neck"),
    ({"StudyDescription": "Ecografía cervical"}, "neck", "cervical"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "THYROID", "0001"]}, "thyroid", "ImageType: THYROID"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "BREAST"], "StudyDescription": "US thyroid"}, "thyroid", "StudyDescription"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "SMALL PARTS", "0001"]}, "unknown", ""),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "OBSTETRICAL"]}, "pelvis", "OBSTETRICAL"),
    ({"ImageType": ["ORIGINAL", "PRIMARY"]}, "unknown", ""),
    ({"TransducerType": "SECTOR_PHASED"}, "other", "TransducerType: SECTOR_PHASED"),
    ({"TransducerType": "LINEAR", "TransducerData": ["L12-5"]}, "unknown", ""),
    ({"TransducerType": "SECTOR_PHASED", "StudyDescription": "US breast"}, "breast", "StudyDescription"),
    ({"StudyDescription": "US breast and thyroid"}, "unknown", "breast and thyroid"),
    ({"StudyDescription": "US abdomen"}, "abdomen", "StudyDescription: abdom"),
    ({"StudyDescription": "Doe^Jane 1950"}, "unknown", ""),
    ({}, "unknown", ""),
]


@pytest.mark.parametrize(("tags", "part", "source"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_organ(tags: dict[str, Any], part: str, source: str) -> None:
    found = infer_organ([{"Modality": "US", **tags}])

    assert found.value == part, (tags, found)
    assert source in found.source
    assert found.value in BODY_PARTS


def test_images_of_one_series_speak_together() -> None:
    silent, breast, thyroid = {}, {"SeriesDescription": "breast"}, {"SeriesDescription": "thyroid"}

    assert infer_organ([silent, breast, silent]).value == "breast"
    assert infer_organ([breast, {"BodyPartExamined": "NECK"}]).value == "breast"
    assert str(infer_organ([breast, thyroid])) == "unknown (images of breast and of thyroid)"
    assert infer_organ([]).value == "unknown"


@pytest.mark.parametrize(
    ("tags", "side", "source"),
    [
        ({"ImageLaterality": "L", "SeriesDescription": "right"}, "left", "ImageLaterality: L"),
        ({"Laterality": "R"}, "right", "Laterality: R"),
        ({"Laterality": "B"}, "both", "Laterality: B"),
        ({"ImageLaterality": "U", "StudyDescription": "left"}, "left", "StudyDescription"),
        ({"AnatomicRegionModifierSequence": [{"CodeValue": "24028007"}]}, "right", "24028007"),
        ({"AnatomicRegionSequence": [{"CodeValue": "79163004"}]}, "left", "79163004"),
        ({"SeriesDescription": "BREAST_LT_2_OCLOCK"}, "left", "SeriesDescription"),
        ({"SeriesDescription": "Mamma rechts"}, "right", "SeriesDescription"),
        ({"SeriesDescription": "sein gauche"}, "left", "SeriesDescription"),
        ({"SeriesDescription": "lóbulo derecho"}, "right", "SeriesDescription"),
        ({"StudyDescription": "УЗИ левой молочной железы"}, "left", "StudyDescription"),
        ({"StudyDescription": "右乳腺"}, "right", "StudyDescription"),
        ({"StudyDescription": "US breast bilateral", "SeriesDescription": "left"}, "left", "SeriesDescription"),
        ({"StudyDescription": "US breast bilateral"}, "both", "StudyDescription"),
        ({"StudyDescription": "left and right breast"}, "both", "StudyDescription"),
        ({"StudyDescription": "sag links-rechts"}, "both", "StudyDescription"),
        ({"StudyDescription": "sag breast"}, "unknown", ""),
        ({}, "unknown", ""),
    ],
)
def test_side(tags: dict[str, Any], side: str, source: str) -> None:
    found = infer_side(tags)

    assert found.value == side
    assert source in found.source


def test_word_lists_are_folded_and_name_known_parts() -> None:
    for listed in _SIDE_WORDS.values():
        assert [w for w in listed.split() if fold(w) != w] == []
    assert set(_SIDE_CHARACTERS) == set(_SIDE_WORDS)
    assert set(_APPLICATIONS.values()) <= set(BODY_PARTS)


RULES = """
rules:
  - name: breast
    algorithm: breast_us
    when: {Modality: US, body_part: [breast, unknown]}
    deliver_to: [pacs]
  - name: thyroid
    algorithm: thyroid_us
    when: {Modality: US, body_part: [thyroid, neck, unknown]}
    deliver_to: [pacs]
"""


@pytest.mark.parametrize(
    ("tags", "algorithms"),
    [
        ({"StudyDescription": "US breast"}, ["breast_us"]),
        ({"StudyDescription": "Schilddrüse"}, ["thyroid_us"]),
        ({"StudyDescription": "US neck"}, ["thyroid_us"]),
        ({"StudyDescription": "US abdomen"}, []),
        ({}, ["breast_us", "thyroid_us"]),
    ],
)
def test_a_study_that_says_nothing_goes_to_both_and_the_record_says_why(
    tmp_path: Path, tags: dict[str, Any], algorithms: list[str]
) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(RULES)
    rules = load_rules(file, algorithms={"breast_us", "thyroid_us"}, destinations={"pacs"})
    image = {"Modality": "US", "Rows": 480, "Columns": 640, **tags}

    routes = decide([series(image, 1)], rules, {}).routes

    assert [r.algorithm for r in routes if r.wanted] == algorithms
    said = str(infer_organ([image]))
    assert all(said in r.reason for r in routes)


def _code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "as coded"
    return item


def test_a_clip_says_what_its_header_says(tmp_path: Path) -> None:
    region = _code("76752008")
    region.AnatomicRegionModifierSequence = [_code("7771000")]
    ds = dataset([draw(Probe()).screen], header={"AnatomicRegionSequence": [region], "BodyPartExamined": "THYROID"})

    clip = open_clip(save(tmp_path, [ds])[0])

    assert str(clip.part) == "breast (AnatomicRegionSequence: 76752008)"
    assert str(clip.side) == "left (AnatomicRegionModifierSequence: 7771000)"
    plain = open_clip(save(tmp_path / "plain", [dataset([draw(Probe()).screen])])[0])
    assert (plain.part.value, plain.side.value) == ("unknown", "unknown")
