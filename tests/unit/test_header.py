"""What the index keeps of a header is the same, however the dataset lies and whatever came before it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode

from dicom_node.errors import InvalidInstance
from dicom_node.receive import elements, header, inflate
from dicom_node.receive.elements import Data, inflated
from dicom_node.receive.header import make_instance, study_of
from dicom_node.receive.tags import routing_tags
from dicom_node.store.files import FileView
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets

SYNTAXES = {
    str(ExplicitVRLittleEndian): (False, True),
    str(ImplicitVRLittleEndian): (True, True),
    str(ExplicitVRBigEndian): (False, False),
}


def _datasets(count: int = 12) -> list[Dataset]:
    affine = plane_affine(PLANES["axial"], (1.5, 1, 1), (-90.25, 3, 7))
    return slice_datasets(np.zeros((count, 8, 8), np.uint16), affine)


def _bytes(ds: Dataset, syntax: str) -> bytes:
    data = encode(ds, *SYNTAXES[syntax])
    assert data is not None
    return data


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_tags_are_those_of_a_whole_reading(syntax: str) -> None:
    for ds in _datasets():
        data = _bytes(ds, syntax)
        made = make_instance(data, TransferSyntaxUID=syntax)
        assert made.tags == routing_tags(read_dataset(BytesIO(data), *SYNTAXES[syntax]))
        assert made.SOPInstanceUID == ds.SOPInstanceUID
        assert made.tags["InstanceNumber"] == ds.InstanceNumber


@pytest.mark.parametrize(
    ("keyword", "raw"),
    [
        ("InstanceNumber", b"3.0 "),
        ("InstanceNumber", b"x "),
        ("InstanceNumber", b""),
        ("InstanceNumber", b"1\\2 "),
        ("ImagePositionPatient", b"1\\nan\\2 "),
        ("ImagePositionPatient", b"\xe9 "),
        ("AcquisitionNumber", b" 7"),
        ("TriggerTime", b"12.5\0\0"),
    ],
)
@pytest.mark.parametrize("written", ["as it should be", "UN", "implicit"])
def test_odd_values_are_read_as_by_a_whole_reading(keyword: str, raw: bytes, written: str) -> None:
    (ds,) = _datasets(1)
    if keyword in ds:
        del ds[keyword]
    header = _bytes(ds, ExplicitVRLittleEndian)
    at = Dataset()
    setattr(at, keyword, None)
    (element,) = at
    tag = element.tag.group.to_bytes(2, "little") + element.tag.elem.to_bytes(2, "little")
    odd = {
        "as it should be": tag + element.VR.encode() + len(raw).to_bytes(2, "little") + raw,
        "UN": tag + b"UN\0\0" + len(raw).to_bytes(4, "little") + raw,
        "implicit": tag + len(raw).to_bytes(4, "little") + raw,
    }[written]
    place = header.index(b"\x28\x00\x02\x00US")
    data = header[:place] + odd + header[place:]
    made = make_instance(data, TransferSyntaxUID=ExplicitVRLittleEndian)
    whole = read_dataset(BytesIO(data), False, True)
    assert made.tags == routing_tags(whole)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Any]:
    """Makes a view of bytes in a file."""
    file = (tmp_path / "data").open("w+b")

    def view(data: bytes) -> FileView:
        file.seek(0)
        file.truncate()
        file.write(b"head" + data)
        file.flush()
        return FileView(file.fileno(), 4, len(data))

    yield view
    file.close()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_in_memory_or_on_disk(large: Any, syntax: str) -> None:
    (ds,) = _datasets(1)
    ds.private_block(0x19, "X", create=True).add_new(1, "LT", "x" * 8000)
    data = _bytes(ds, syntax)
    places: list[Data] = [data, memoryview(data), large(data)]
    assert len({make_instance(p, TransferSyntaxUID=syntax).digest for p in places}) == 1
    made = [make_instance(p, TransferSyntaxUID=syntax) for p in places]
    assert made[0] == made[1] == made[2]
    for end in (0, 3, 100, len(data) - 130, len(data) - 1):
        for place in (memoryview(data)[:end], large(data[:end])):
            with pytest.raises(InvalidInstance):
                make_instance(place, TransferSyntaxUID=syntax)


def test_a_view_of_a_file_reads_like_bytes(large: Any) -> None:
    data = np.random.default_rng(1).bytes(200_000)
    view = large(data)
    chance = np.random.default_rng(2)
    for _ in range(300):
        start = int(chance.integers(0, len(data)))
        stop = start + int(chance.choice([0, 1, 12, 4000, 70_000]))
        assert view[start:stop] == data[start:stop]
    assert view[:] == data
    assert len(view) == len(data)


def test_what_is_deflated_and_large_is_inflated_as_it_is_read(monkeypatch: pytest.MonkeyPatch, large: Any) -> None:
    (ds,) = _datasets(1)
    ds.PixelData = np.random.default_rng(0).integers(0, 2, 5 << 20, np.uint8).tobytes()
    plain = _bytes(ds, ExplicitVRLittleEndian)
    deflator = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflator.compress(plain) + deflator.flush()
    syntax = str(DeflatedExplicitVRLittleEndian)
    assert inflated(deflated, syntax) == plain
    monkeypatch.setattr(inflate, "_LONGEST_IN_MEMORY", 1 << 20)
    for place in (memoryview(deflated), large(deflated)):
        data = inflated(place, syntax)
        assert isinstance(data, inflate.InflatedView)
        assert len(data) == len(plain)
        chance = np.random.default_rng(2)
        for start in (0, *chance.integers(0, len(plain), 20), *range(0, len(plain), 1 << 19), 0, len(plain)):
            stop = start + int(chance.choice([0, 1, 12, 70_000, 1 << 20]))
            assert data[start:stop] == plain[start:stop]
        assert len(data._window) <= 4 << 20
    assert make_instance(deflated, TransferSyntaxUID=syntax).tags["Modality"] == "MR"
    with pytest.raises(InvalidInstance, match="cut short"):
        inflated(deflated[:-3], syntax)
    monkeypatch.setattr(inflate, "_LONGEST_INFLATED", 2 << 20)
    with pytest.raises(InvalidInstance, match="larger than"):
        inflated(deflated, syntax)


def test_zeros_that_are_no_padding_are_no_elements() -> None:
    (ds,) = _datasets(1)
    plain = _bytes(ds, ExplicitVRLittleEndian)
    assert make_instance(plain + bytes(1000), TransferSyntaxUID=ExplicitVRLittleEndian)
    with pytest.raises(InvalidInstance, match="zero bytes"):
        make_instance(plain + bytes(1000) + b"x", TransferSyntaxUID=ExplicitVRLittleEndian)


def test_a_header_that_is_repeated_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    (ds,) = _datasets(1)
    plain = _bytes(ds, ExplicitVRLittleEndian)
    monkeypatch.setattr(header, "_LONGEST_HEADER", 4000)
    name = b"\x10\x00\x10\x00PN\x04\x00Doe "
    assert make_instance(plain + name * 10, TransferSyntaxUID=ExplicitVRLittleEndian)
    with pytest.raises(InvalidInstance, match="its header is larger"):
        make_instance(plain + name * 1000, TransferSyntaxUID=ExplicitVRLittleEndian)


@pytest.mark.parametrize("what", ["elements", "items", "fragments"])
def test_elements_are_counted(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    (ds,) = _datasets(1)
    plain = _bytes(ds, ExplicitVRLittleEndian)
    item = b"\xfe\xff\x00\xe0\0\0\0\0"
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    many = {
        "elements": b"\x11\x00\x10\x00LO\0\0" * 200,
        "items": b"\x11\x00\x10\x00SQ\0\0\xff\xff\xff\xff" + item * 200 + end,
        "fragments": b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + item * 200 + end,
    }[what]
    monkeypatch.setattr(elements, "_MOST_ELEMENTS", 500)
    assert make_instance(plain + many, TransferSyntaxUID=ExplicitVRLittleEndian)
    monkeypatch.setattr(elements, "_MOST_ELEMENTS", 150)
    # Of a dataset that is like the last one nothing would be left to count.
    make_instance(plain, TransferSyntaxUID=ExplicitVRLittleEndian)
    with pytest.raises(InvalidInstance, match="more than 150 elements"):
        make_instance(plain + many, TransferSyntaxUID=ExplicitVRLittleEndian)


def test_pixel_data_that_comes_again_and_again_is_one() -> None:
    (ds,) = _datasets(1)
    plain = _bytes(ds, ExplicitVRLittleEndian)
    pixels = b"\xe0\x7f\x10\x00OW\0\0\2\0\0\0\1\0"
    with pytest.MonkeyPatch.context() as m:
        seen: list[tuple[int, ...]] = []
        real = header._common_cached
        m.setattr(header, "_common_cached", lambda e, p, *r: seen.append(p) or real(e, p, *r))
        assert make_instance(plain + pixels * 50, TransferSyntaxUID=ExplicitVRLittleEndian).tags["HasPixelData"]
    assert seen == [(0x7FE00010,)]


def test_a_study_uid_of_a_megabyte_is_not_read() -> None:
    huge = b"\x20\x00\x0d\x00UT\0\0" + (1 << 20).to_bytes(4, "little") + b"1" * (1 << 20)
    assert study_of(huge, str(ExplicitVRLittleEndian)) == ""
