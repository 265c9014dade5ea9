"""Defects of results in several encodings."""

from __future__ import annotations

from collections.abc import Callable

from pydicom import Dataset


def _both_segs(read: dict[str, Dataset]) -> None:
    other = read["seg_labelmap"]
    group = read["sr"].ContentSequence[-2].ContentSequence[0]
    reference = next(i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121191")
    reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = other.SOPInstanceUID
    reference.ReferencedSOPSequence[0].ReferencedSOPClassUID = other.SOPClassUID


def _binary_type(read: dict[str, Dataset]) -> None:
    read["seg_labelmap"].SegmentationType = "BINARY"


def _class(read: dict[str, Dataset]) -> None:
    ds = read["seg_labelmap"]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = read["seg"].SOPClassUID


def _value(read: dict[str, Dataset]) -> None:
    pixels = bytearray(read["seg_labelmap"].PixelData)
    pixels[pixels.index(1)] = 9
    read["seg_labelmap"].PixelData = bytes(pixels)


def _swapped(read: dict[str, Dataset]) -> None:
    ds = read["seg_labelmap"]
    ds.PixelData = ds.PixelData.translate(bytes([0, 2, 1, *range(3, 256)]))


def _one_voxel(read: dict[str, Dataset]) -> None:
    pixels = bytearray(read["seg_labelmap"].PixelData)
    pixels[pixels.index(1)] = 0
    read["seg_labelmap"].PixelData = bytes(pixels)


def _cut(read: dict[str, Dataset]) -> None:
    read["seg_labelmap"].PixelData = read["seg_labelmap"].PixelData[:-100]


def _half_a_slice(read: dict[str, Dataset]) -> None:
    place = read["seg_labelmap"].PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    place.ImagePositionPatient = [place.ImagePositionPatient[0] + 0.75, *place.ImagePositionPatient[1:]]


def _spoilt_code(read: dict[str, Dataset]) -> None:
    data = bytearray(read["seg_labelmap_jls"].PixelData)
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    read["seg_labelmap_jls"].PixelData = bytes(data)


def _lossy(read: dict[str, Dataset]) -> None:
    read["seg_labelmap_jls"].file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.81"


def _no_report(read: dict[str, Dataset]) -> None:
    del read["sr_labelmap"]


DEFECTS: dict[Callable[[dict[str, Dataset]], None], str] = {
    _both_segs: r"^sr\.dcm: it refers to seg\.dcm and seg_labelmap\.dcm, but a destination gets one of them$",
    _binary_type: r"^seg_labelmap\.dcm: SegmentationType is BINARY, which the class 1\.2\.\S+66\.7 is not for$",
    _class: r"^seg_labelmap\.dcm: SegmentationType is LABELMAP, which the class 1\.2\.\S+66\.4 is not for$",
    _value: r"^seg_labelmap\.dcm: the label map holds 9, which no segment describes$",
    _swapped: r"^sr_labelmap\.dcm: .*volume is 0\.7\d+ mL, the mask of segment 1 has 0\.215 mL$",
    _one_voxel: r"^seg_labelmap\.dcm: frame \d differs in 1 pixels from segment 1 of the findings",
    _cut: r"^seg_labelmap\.dcm: PixelData has \d+ bytes, 7 frames of 8 bits need 3360$",
    _half_a_slice: r"^seg_labelmap\.dcm: frame 3 lies at",
    _spoilt_code: r"^seg_labelmap_jls\.dcm: ",
    _lossy: r"^seg_labelmap_jls\.dcm: the transfer syntax \S+ is not native little endian, RLE or JPEG-LS Lossless$",
    _no_report: r"^seg_labelmap\.dcm: no report refers to it$",
}
