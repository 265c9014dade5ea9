"""Lossy compression of the images is said in what is made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import JPEG2000, UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

from dicom_node.check.results import check_results
from dicom_node.encode.lossy import lossy_compression
from dicom_node.encode.results import encode_findings
from tests.unit.result_samples import context
from tests.unit.ultrasound_samples import SHOWN, findings, image, study


def header(syntax: str = ExplicitVRLittleEndian, **more: Any) -> Dataset:
    ds = Dataset()
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsAllocated, ds.NumberOfFrames = 100, 100, 3, 8, 2
    ds.update(more)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return ds


@pytest.mark.parametrize(
    ("ratio", "method"), [("12.5", "ISO_10918_1"), (["2", "8.25"], ["ISO_14495_1", "ISO_10918_1"])]
)
def test_what_the_image_says_is_in_segmentation_and_picture(
    ratio: str | list[str], method: str | list[str], tmp_path: Path
) -> None:
    lossy = image(
        "lossy", LossyImageCompression="01", LossyImageCompressionRatio=ratio, LossyImageCompressionMethod=method
    )
    source = study(tmp_path / "in", [lossy])
    found = findings(source, (SHOWN,), (1,))
    objects = encode_findings(found, source.headers, context(), tmp_path / "out", ("sc",))
    assert check_results([o.path for o in objects], source.headers, findings=found) == []
    read = {o.role: pydicom.dcmread(o.path) for o in objects}
    for role in ("seg", "sc"):
        assert read[role].LossyImageCompression == "01"
        assert read[role].LossyImageCompressionRatio == lossy.LossyImageCompressionRatio
        assert read[role].LossyImageCompressionMethod == lossy.LossyImageCompressionMethod
    assert "LossyImageCompression" not in read["sr"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"LossyImageCompression": "00"}, "LossyImageCompression is 00, not 01"),
        ({"LossyImageCompression": None}, "LossyImageCompression is absent, not 01"),
        ({"LossyImageCompressionRatio": None}, "LossyImageCompressionRatio is absent"),
    ],
)
def test_a_result_that_hides_the_loss_is_held_back(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    source = study(tmp_path / "in", [image("lossy", LossyImageCompression="01", LossyImageCompressionRatio="12.5")])
    found = findings(source, (SHOWN,), (1,))
    objects = encode_findings(found, source.headers, context(), tmp_path / "out", ("sc",))
    for path in (o.path for o in objects if o.role in ("seg", "sc")):
        read = pydicom.dcmread(path)
        for keyword, value in changes.items():
            if value is None:
                delattr(read, keyword)
            else:
                setattr(read, keyword, value)
        read.save_as(path)

    problems = check_results([o.path for o in objects], source.headers, findings=found)

    assert sum(said in problem for problem in problems) == 2, problems


def test_baseline_jpeg_is_lossy_whatever_the_header_says(tmp_path: Path) -> None:
    jpeg = header(JPEGBaseline8Bit, LossyImageCompression="00")
    (tmp_path / "image.dcm").write_bytes(bytes(6000))
    jpeg.filename = tmp_path / "image.dcm"
    found = lossy_compression([header(), jpeg])
    assert found is not None
    assert (found.LossyImageCompression, found.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert found.LossyImageCompressionRatio == 10


def test_nothing_is_known_but_that_it_was() -> None:
    found = lossy_compression([header(LossyImageCompression="01", LossyImageCompressionRatio="0")])
    assert found is not None
    assert (found.LossyImageCompression, found.LossyImageCompressionRatio) == ("01", 1)
    assert "LossyImageCompressionMethod" not in found


def test_an_ill_formed_history_is_told_as_far_as_it_can_be() -> None:
    jpeg = Dataset()
    jpeg.file_meta = FileMetaDataset()
    jpeg.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    with pydicom.config.disable_value_validation():
        jpeg.LossyImageCompressionRatio = "-3"
        jpeg.LossyImageCompressionMethod = "by some jpeg"
    found = lossy_compression([jpeg])
    assert found is not None
    assert (found.LossyImageCompressionRatio, found.LossyImageCompressionMethod) == (1, "ISO_10918_1")


def test_a_method_that_can_do_without_loss_is_believed() -> None:
    assert lossy_compression([header(JPEG2000, LossyImageCompression="00"), header(), Dataset()]) is None
