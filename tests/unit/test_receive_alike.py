"""Headers of a series are read by what differs: never otherwise than from scratch."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from dicom_node.errors import InvalidInstance
from dicom_node.receive.alike import Alike, Elements
from dicom_node.receive.elements import Encoding, outline

EXPLICIT = Encoding(implicit=False, little=True)
IMPLICIT = Encoding(implicit=True, little=True)


def _element(tag: int, value: bytes, encoding: Encoding) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    value += b" " * (len(value) % 2)
    if encoding.implicit:
        return head + struct.pack("<I", len(value)) + value
    if len(value) > 0xFFFF:
        return head + b"OB\0\0" + struct.pack("<I", len(value)) + value
    return head + b"LO" + struct.pack("<H", len(value)) + value


def _dataset(values: Sequence[tuple[int, bytes]], encoding: Encoding) -> bytes:
    return b"".join(_element(tag, value, encoding) for tag, value in values)


def _elements(elements: Elements) -> list[tuple[int, bytes]]:
    return [(tag, bytes(raw)) for tag, raw in elements]


def _all(alike: Alike[Any], data: bytes) -> None:
    for _ in alike.read(data):
        pass


def _afresh(data: bytes, encoding: Encoding) -> list[tuple[int, bytes]]:
    return [(tag, data[start:stop]) for tag, start, stop in outline(data, encoding)]


@pytest.mark.parametrize("encoding", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_changes_the_elements_are_those_that_are_there(encoding: Encoding, seed: int) -> None:
    chance = random.Random(seed)
    values = [(0x00080000 + 2 * n, bytes([65 + n % 26]) * chance.randrange(30)) for n in range(1, 90)]
    values.insert(40, (values[40][0] - 1, b"long" * 3000))
    alike = Alike(encoding, _elements)
    for _ in range(60):
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(values))
            tag, value = values[at]
            change = chance.choice(("value", "value", "length", "remove", "add", "end"))
            if change == "value":
                values[at] = tag, bytes(chance.randrange(65, 90) for _ in value)
            elif change == "length":
                values[at] = tag, b"x" * chance.randrange(40)
            elif change == "remove" and len(values) > 5:
                del values[at]
            elif change == "add":
                values.insert(at + 1, (tag + 1, b"new"))
            elif change == "end" and len(values) > 60:
                del values[-5:]
        values = sorted(dict(values).items())
        data = _dataset(values, encoding) + b"\0" * chance.choice((0, 0, 4))
        assert [e for made in alike.read(data) for e in made] == _afresh(data, encoding)


def test_only_what_differs_is_made_again() -> None:
    made: list[int] = []

    def note(elements: Elements) -> None:
        made.extend(tag for tag, _ in elements)

    alike = Alike(EXPLICIT, note)
    tags = [0x00100000 + n for n in range(100)]
    for number in range(6):
        made.clear()
        _all(alike, _dataset([(tag, b"%d" % (number if tag in tags[7:90:20] else 0)) for tag in tags], EXPLICIT))
    assert made == tags[7:90:20]


def test_a_dataset_that_is_cut_short_is_refused_as_ever() -> None:
    values = [(0x00100000 + n, b"value") for n in range(50)]
    data = _dataset(values, EXPLICIT)
    alike = Alike(EXPLICIT, _elements)
    _all(alike, data)
    for stop in range(1, len(data)):
        expected: object
        try:
            expected = _afresh(data[:stop], EXPLICIT)
        except InvalidInstance as e:
            expected = str(e)
        try:
            found: object = [e for made in alike.read(data[:stop]) for e in made]
        except InvalidInstance as e:
            found = str(e)
        assert found == expected
        _all(alike, data)


def test_a_header_without_end_is_not_remembered() -> None:
    data = _dataset([(0x00100000 + n, b"x" * 4000) for n in range(200)], EXPLICIT)
    alike = Alike(EXPLICIT, _elements)
    _all(alike, data)
    assert sum(len(run.raw) for run in alike._last.runs) <= 1 << 17
    assert [e for made in alike.read(data) for e in made] == _afresh(data, EXPLICIT)
