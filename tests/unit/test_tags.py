from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.filereader import read_dataset
from pynetdicom.dsutils import encode

from dicom_node.model.routing import ROUTING_KEYWORDS
from dicom_node.receive.tags import latin_value, routing_tags


def _encoded(ds: Dataset, implicit: bool = False, little: bool = True) -> Dataset:
    data = encode(ds, implicit, little)
    assert data is not None
    return read_dataset(BytesIO(data), implicit, little)


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _header() -> Dataset:
    return _item(
        SpecificCharacterSet="ISO_IR 192",
        Modality="MR",
        ImageType=["ORIGINAL", "PRIMARY", "M"],
        SeriesDescription="Schädel sagittal",
        PatientName="Doe^John",
        PatientID="1",
        EchoTime="2.93",
        PixelSpacing=["1.0", "0.5"],
        InstanceNumber="7",
        Rows=256,
        DiffusionBValue=1000.0,
        FrameOfReferenceUID="1.2.3",
        Laterality="",
        AnatomicRegionSequence=[_item(CodeValue="69536005", CodingSchemeDesignator="SCT", CodeMeaning="Head")],
    )


EXPECTED = {
    "Modality": "MR",
    "ImageType": ["ORIGINAL", "PRIMARY", "M"],
    "SeriesDescription": "Schädel sagittal",
    "EchoTime": 2.93,
    "PixelSpacing": [1.0, 0.5],
    "InstanceNumber": 7,
    "Rows": 256,
    "DiffusionBValue": 1000.0,
    "FrameOfReferenceUID": "1.2.3",
    "AnatomicRegionSequence": [{"CodeValue": "69536005", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Head"}],
    "HasPixelData": False,
}


@pytest.mark.parametrize(("implicit", "little"), [(False, True), (True, True), (False, False)])
def test_values_are_plain_json_whatever_the_encoding(implicit: bool, little: bool) -> None:
    tags = routing_tags(_encoded(_header(), implicit, little))
    assert tags == EXPECTED
    assert json.loads(json.dumps(tags, allow_nan=False)) == tags


def test_a_dataset_that_was_not_encoded_gives_the_same() -> None:
    assert routing_tags(_header()) == EXPECTED


def test_nothing_names_the_patient() -> None:
    assert not [k for k in ROUTING_KEYWORDS if k.startswith("Patient") and k != "PatientPosition"]
    assert "Doe" not in json.dumps(routing_tags(_encoded(_header())))


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        (b"\x18\x00\x81\x00DS\x04\x00abcd", None),
        (b"\x18\x00\x81\x00DS\x04\x00nan ", None),
        (b"\x18\x00\x81\x00DS\x04\x00\xff\xff\xff\xff", None),
        (b"\x18\x00\x81\x00DS\x00\x00", None),
        (b"\x18\x00\x81\x00DS\x14\x00+0002.9300000000000\0 ", 2.93),
        (b"\x18\x00\x81\x00UN\x00\x00\x04\x00\x00\x002.93", 2.93),
    ],
)
def test_what_cannot_be_read_is_left_out(element: bytes, expected: float | None) -> None:
    tags = routing_tags(read_dataset(BytesIO(element), False, True))
    assert tags.get("EchoTime") == expected


def test_integers_that_are_written_as_decimals_and_odd_lengths() -> None:
    number = b"\x20\x00\x13\x00IS\x04\x003.0 "
    rows = b"\x28\x00\x10\x00US\x03\x00\x01\x02\x03"
    assert routing_tags(read_dataset(BytesIO(number + rows), False, True)) == {
        "InstanceNumber": 3,
        "HasPixelData": False,
    }


def test_an_enhanced_object_has_its_values_in_the_shared_groups() -> None:
    shared = _item(
        PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[_item(PixelSpacing=[0.5, 0.5], SliceThickness=2)],
        MREchoSequence=[_item(EffectiveEchoTime=3.5)],
        MRTimingAndRelatedParametersSequence=[_item(RepetitionTime=2300, FlipAngle=9)],
        FrameAnatomySequence=[
            _item(
                FrameLaterality="U",
                AnatomicRegionSequence=[_item(CodeValue="12738006", CodingSchemeDesignator="SCT", CodeMeaning="Brain")],
            )
        ],
    )
    ds = _item(Modality="MR", SharedFunctionalGroupsSequence=[shared], SliceThickness=1)
    tags = routing_tags(_encoded(ds))
    assert tags == {
        "Modality": "MR",
        "SliceThickness": 1.0,
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [0.5, 0.5],
        "EchoTime": 3.5,
        "RepetitionTime": 2300.0,
        "FlipAngle": 9.0,
        "ImageLaterality": "U",
        "AnatomicRegionSequence": [{"CodeValue": "12738006", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Brain"}],
        "HasPixelData": False,
    }


def test_pixel_data_of_any_kind_is_seen() -> None:
    ds = Dataset()
    ds.add_new("FloatPixelData", "OF", b"\0" * 4)
    assert routing_tags(ds)["HasPixelData"] is True


def test_what_is_too_long_for_a_rule_is_left_out() -> None:
    """It would be kept in each instance's row."""
    ds = _header()
    ds.AnatomicRegionSequence = [_item(CodeValue=str(n)) for n in range(300)]
    data = encode(ds, False, True)
    assert data is not None
    for tag, vr, value in (
        (b"\x08\x00\x3e\x10", b"LO", b"x" * 20_000),
        (b"\x08\x00\x08\x00", b"CS", b"A\\" * 10_000),
        (b"\x28\x00\x10\x00", b"US", b"\7\0" * 10_000),
    ):
        data += tag + vr + len(value).to_bytes(2, "little") + value
    tags = routing_tags(read_dataset(BytesIO(data), False, True))
    assert not {"SeriesDescription", "ImageType", "Rows"} & tags.keys()
    codes = tags["AnatomicRegionSequence"]
    assert isinstance(codes, list)
    assert len(codes) == 100
    assert latin_value("DS", b"1\\2") == [1.0, 2.0]
    assert latin_value("DS", b"1\\2" * 10_000) is None
