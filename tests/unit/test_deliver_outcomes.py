import pytest
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage
from pynetdicom.status import GENERAL_STATUS, STORAGE_SERVICE_CLASS_STATUS

from dicom_node.peer.outcomes import none_accepted, rejection, store_outcome, store_warning


@pytest.mark.parametrize("status", [0x0000, 0x0001, 0x0107, 0x0111, 0x0116, 0xB000, 0xB006, 0xB007, 0xB0FF])
def test_success_and_warnings_are_stored(status: int) -> None:
    assert store_outcome(status) == ""


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0xBFFF, 0x0111])
def test_a_warning_is_said(status: int) -> None:
    assert f"0x{status:04X}" in store_warning(status)


def test_success_is_no_warning() -> None:
    assert store_warning(0x0000) == store_warning(0xC000) == ""


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0xA7FF, 0x0110, 0x0210, 0x0213, 0x4711])
def test_what_may_pass_is_tried_again(status: int) -> None:
    assert f"0x{status:04X}" in store_outcome(status)
    assert store_outcome(status).retryable


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0xC000, 0xC123, 0xCFFF, 0x0117, 0x0122, 0x0124, 0x0211, 0x0212])
def test_what_is_the_same_tomorrow_is_final(status: int) -> None:
    assert f"0x{status:04X}" in store_outcome(status)
    assert not store_outcome(status).retryable


def test_every_status_of_the_standard_has_a_meaning() -> None:
    for status in {**STORAGE_SERVICE_CLASS_STATUS, **GENERAL_STATUS}:
        # Pending and cancel are no answers to a C-STORE.
        if status not in (0xFF00, 0xFE00):
            assert "unknown" not in store_outcome(status), f"0x{status:04X}"


def test_the_peers_comment_is_kept() -> None:
    assert store_outcome(0xC000, "study is locked").endswith("cannot understand: study is locked")


@pytest.mark.parametrize(
    ("result", "source", "reason", "retryable", "said"),
    [
        (1, 1, 1, False, "permanently: no reason given"),
        (1, 1, 3, False, "does not know our AE title"),
        (1, 1, 7, False, "its AE title is another one"),
        (1, 2, 2, False, "protocol version"),
        (2, 1, 1, True, "for now"),
        (2, 3, 2, True, "too many associations"),
        (1, 3, 1, True, "congestion"),
        (1, 9, 9, False, "source 9, reason 9"),
    ],
)
def test_rejections(result: int, source: int, reason: int, retryable: bool, said: str) -> None:
    error = rejection("pacs", result, source, reason)
    assert error.retryable is retryable
    assert said in str(error)
    assert str(error).startswith("pacs ")


def test_what_was_not_accepted_is_named() -> None:
    error = none_accepted("pacs", [(SegmentationStorage, ExplicitVRLittleEndian)])
    assert "Segmentation Storage in Explicit VR Little Endian is not accepted" in str(error)
    assert not error.retryable
