"""Body part: from codes, tags, words in many languages, sequences and the field of view."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.model.body_part import _CHARACTERS, _WORDS, BODY_PARTS, infer_body_part
from dicom_node.model.evidence import fold
from tests.routing import T1

CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"AnatomicRegionSequence": [{"CodeValue": "T-A0100", "CodingSchemeDesignator": "SRT"}]}, "brain", "T-A0100"),
    ({"AnatomicRegionSequence": [{"CodeValue": "72696002"}], "BodyPartExamined": "HEAD"}, "knee", "72696002"),
    ({"AnatomicRegionSequence": [{"CodeValue": "0"}], "BodyPartExamined": "BRAIN"}, "brain", "BodyPartExamined"),
    *[
        ({"BodyPartExamined": v}, "brain", "BodyPartExamined")
        for v in (
            "HEAD",
            "Brain",
            "CRANE",
            "SCHAEDEL",
            "Schädel",
            "KOPF",
            "CRÂNE",
            "SKULL_CEREBRUM",
            "TETE",
            "头部",
            "頭部",
        )
    ],
    *[
        ({"SeriesDescription": "Ax T1", "StudyDescription": v}, "brain", "StudyDescription")
        for v in (
            "MRI Brain wo",
            "MR HEAD",
            "IRM cérébrale",
            "RM cerebro",
            "RM de cráneo",
            "MRT Neurocranium",
            "MR hersenen",
            "МРТ головного мозга",
            "MRI голова",
            "脑部平扫",
            "頭部MRI",
            "뇌 MRI",
            "Rezonans głowy",
            "RM encefalo",
            "MR Hjärna",
            "MRI BRAIN AND CERVICAL SPINE",
        )
    ],
    ({"SeriesDescription": "ADNI_Sag3D MPRAGE", "Modality": "MR"}, "brain", "SeriesDescription: mprage"),
    ({"ProtocolName": "WIP ADNI_Sag3D", "Modality": "MR"}, "brain", "ProtocolName: adni"),
    ({"SeriesDescription": "BrainT1"}, "brain", "brain"),
    ({"SeriesDescription": "COR T1", "StudyDescription": "MRI knee left"}, "knee", "StudyDescription: knee"),
    ({"SeriesDescription": "sag t1 c-spine", "StudyDescription": "MRI Brain"}, "spine", "SeriesDescription"),
    ({"BodyPartExamined": "LSPINE"}, "spine", "lspine"),
    ({"BodyPartExamined": "WHOLEBODY"}, "whole_body", "wholebody"),
    ({"StudyDescription": "HEAD NECK CT"}, "brain", "head"),
    ({"StudyDescription": "MRT HWS"}, "spine", "hws"),
    ({"StudyDescription": "IRM du sein gauche et mamma"}, "breast", "mamma"),
    ({"SeriesDescription": "T1 Femoral_Head cor", "Modality": "MR"}, "unknown", ""),
    ({"SeriesDescription": "head of pancreas"}, "abdomen", "pancrea"),
    ({"SeriesDescription": "COR T1", "Modality": "MR"}, "unknown", ""),
    ({"SeriesDescription": "Krankenhaus"}, "unknown", ""),
    ({}, "unknown", ""),
]


@pytest.mark.parametrize(("tags", "part", "source"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_evidence(tags: dict[str, Any], part: str, source: str) -> None:
    found = infer_body_part(tags)
    assert found.value == part, (tags, found)
    assert source in found.source
    assert found.value in BODY_PARTS


def test_an_empty_3d_series_of_the_size_of_a_head_is_taken_for_one() -> None:
    empty = {k: v for k, v in T1.items() if not k.endswith("Description")}
    assert infer_body_part(empty).value == "brain"
    assert "256 x 256 mm" in infer_body_part(empty).source
    for changed in (
        {"PixelSpacing": [0.6, 0.6]},  # a knee
        {"PixelSpacing": [1.5, 1.5]},  # a trunk
        {"MRAcquisitionType": "2D"},
        {"PatientPosition": "FFS"},
        {"Modality": "CT"},
    ):
        assert infer_body_part({**empty, **changed}).value == "unknown", changed


def test_the_source_repeats_no_name() -> None:
    found = infer_body_part({"StudyDescription": "Doe John brain 1950"})
    assert found.source == "StudyDescription: brain"


def test_the_word_lists_are_folded_and_name_known_parts() -> None:
    for part, listed in _WORDS.items():
        for word in listed.split():
            assert fold(word) == word, (part, word)
    assert set(_CHARACTERS) <= set(BODY_PARTS)
