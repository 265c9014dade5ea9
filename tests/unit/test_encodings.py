"""The SEG as a label map, native and compressed: the same mask, objects of its own, and a report that refers to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from dicom_node.algorithm import Frame
from dicom_node.check.results import check_results
from dicom_node.encode.results import encode_findings
from dicom_node.encode.seg import build_seg, seg_encoding
from dicom_node.encode.source import read_source
from dicom_node.errors import EncodeError
from dicom_node.model.result import SegEncoding, encoded_role
from dicom_node.settings import Destination
from tests.unit.result_samples import SHAPE, context, findings, headers

LABEL_MAPS: dict[SegEncoding, str] = {
    "labelmap": ExplicitVRLittleEndian,
    "labelmap_rle": RLELossless,
    "labelmap_jls": JPEGLSLossless,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("encodings")
    objects = encode_findings(findings(), headers(), context(), out, encodings=("binary", *LABEL_MAPS))
    return {o.role: o.path for o in objects}


def test_the_settings_offer_what_there_is() -> None:
    offered = get_args(Destination.model_fields["seg_encoding"].annotation)
    assert offered == get_args(SegEncoding) == ("binary", *LABEL_MAPS)


def test_all_of_them_are_sound(made: dict[str, Path]) -> None:
    assert check_results(list(made.values()), headers(), findings=findings()) == []


@pytest.mark.parametrize("encoding", LABEL_MAPS)
def test_a_label_map_has_the_findings_values(made: dict[str, Path], encoding: SegEncoding) -> None:
    ds = pydicom.dcmread(made[encoded_role("seg", encoding)])
    assert (ds.SOPClassUID, ds.SegmentationType) == ("1.2.840.10008.5.1.4.1.1.66.7", "LABELMAP")
    assert ds.file_meta.TransferSyntaxUID == LABEL_MAPS[encoding]
    read = np.zeros(SHAPE, np.uint8)
    order = [str(h.SOPInstanceUID) for h in headers()]
    for plane, frame in zip(ds.pixel_array, ds.PerFrameFunctionalGroupsSequence, strict=True):
        read[order.index(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)] = plane
    np.testing.assert_array_equal(read, findings().label_map)


def test_each_seg_has_uids_of_its_own_and_a_report_that_refers_to_it_alone(made: dict[str, Path]) -> None:
    read = {role: pydicom.dcmread(path) for role, path in made.items()}
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({ds[keyword].value for ds in read.values()}) == 8
    segs = {role: ds.SOPInstanceUID for role, ds in read.items() if role.startswith("seg")}
    for encoding in ("binary", *LABEL_MAPS):
        report = made[encoded_role("sr", encoding)].read_bytes()
        named = {role for role, uid in segs.items() if uid.encode() in report}
        assert named == {encoded_role("seg", encoding)}
    tracked = {tuple(s.TrackingUID for s in ds.SegmentSequence if s.SegmentNumber) for ds in map(read.get, segs) if ds}
    assert len(tracked) == 1


def test_the_same_arguments_give_the_same_bytes(made: dict[str, Path], tmp_path: Path) -> None:
    again = encode_findings(findings(), headers(), context(), tmp_path, encodings=("labelmap_jls",))
    assert {o.role for o in again} == {"seg", "sr", "seg_labelmap_jls", "sr_labelmap_jls"}
    for o in again:
        assert o.path.read_bytes() == made[o.role].read_bytes()


def test_without_a_finding_there_is_one_report_for_all(tmp_path: Path) -> None:
    nothing = replace(findings(), label_map=np.zeros(SHAPE, np.uint8), measurements=())
    (report,) = encode_findings(nothing, headers(), context(), tmp_path, encodings=("labelmap",))
    assert report.role == "sr"


def test_findings_on_frames_are_binary(tmp_path: Path) -> None:
    """Two phases of a heart lie at the same place, where a label map has one value."""
    frames = tuple(Frame(str(h.SOPInstanceUID)) for h in headers())
    on_frames = replace(findings(), frames=frames)
    assert seg_encoding(on_frames, "labelmap") == "binary"
    objects = encode_findings(on_frames, headers(), context(), tmp_path, encodings=("labelmap",))
    assert [o.role for o in objects] == ["seg", "sr"]
    with pytest.raises(EncodeError, match="label map"):
        build_seg(on_frames, read_source(headers(), [], frames=frames), context(), "labelmap")
