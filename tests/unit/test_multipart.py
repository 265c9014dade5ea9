"""Multipart messages, cut wherever a network may cut them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.errors import InvalidInstance
from dicom_node.receive.multipart import MultipartReader

TYPE = 'multipart/related; type="application/dicom"; boundary="edge"'


class Taken:
    """Keeps a part."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = dict(headers)
        self.body = b""
        self.closed = False

    def write(self, data: memoryview) -> None:
        self.body += data

    def close(self) -> None:
        self.closed = True


def read(message: bytes, cuts: list[int], content_type: str = TYPE) -> list[Taken]:
    taken: list[Taken] = []

    def open_part(headers: Mapping[str, str]) -> Taken:
        taken.append(Taken(headers))
        return taken[-1]

    reader = MultipartReader(content_type, open_part)
    edges = [0, *sorted(c % (len(message) + 1) for c in cuts), len(message)]
    for start, stop in itertools.pairwise(edges):
        reader.write(message[start:stop])
    reader.finish()
    return taken


# Bodies of bytes that make near misses of the boundary likely.
near_misses = st.text("\r\n-edgx", max_size=40).map(str.encode).filter(lambda b: b"\r\n--edge" not in b)


@given(
    bodies=st.lists(near_misses, max_size=4),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    lead=st.sampled_from([b"", b"\r\n"]),
)
def test_parts_come_out_as_they_went_in(bodies: list[bytes], cuts: list[int], lead: bytes) -> None:
    parts = [b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n" for body in bodies]

    taken = read(lead + b"".join(parts) + b"--edge--\r\n", cuts)

    assert [t.body for t in taken] == bodies
    assert all(t.closed and t.headers == {"content-type": "application/dicom"} for t in taken)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"no boundary at all",
        b"--other\r\n\r\nx\r\n--other--",
        b"--edge\r\nContent-Type: a\r\n\r\nhalf of a bo",
        b"--edge\r\nContent-Type: a\r\n\r\nx\r\n--edge\r\n",
        b"--edge\r\n" + b"A" * 10_000,
        b"--edge\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(100)),
    ],
)
def test_what_is_no_multipart_message(message: bytes) -> None:
    with pytest.raises(InvalidInstance, match="multipart message"):
        read(message, [])


@pytest.mark.parametrize(
    "content_type",
    ["", "application/dicom", "multipart/related", "multipart/form-data; boundary=edge", f"{TYPE[:-6]}{'x' * 300}"],
)
def test_what_is_no_multipart_content_type(content_type: str) -> None:
    with pytest.raises(InvalidInstance):
        read(b"--edge--", [], content_type)
