"""Writes the corpus: ``python -m tests.fuzz.make_corpus``. Each file is an input of ``target.read_one``."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final

from pydicom.uid import MRImageStorage

from dicom_node.receive.header import file_head
from dicom_node.testing.bytes_peer import ABORT, RELEASE_RQ, c_echo_rq, c_store_rq, p_data, pdu, pdv
from tests.fuzz.target import COMMAND, CONNECTION, DATASET, FILE_HEAD, SYNTAXES

CORPUS: Final = Path(__file__).parent / "corpus"

_EXPLICIT, _IMPLICIT, _BIG, _DEFLATED, _JPEG2000 = range(5)
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
_UNDEFINED = 0xFFFFFFFF
_UID = "1.2.840.99.1"
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

Value = bytes | list[list[tuple[int, bytes, "Value"]]]
Elements = list[tuple[int, bytes, Value]]


def encode(elements: Elements, syntax: int = _EXPLICIT, *, undefined: bool = True) -> bytes:
    """A dataset (PS3.5 section 7); a list of items is a sequence, with or without lengths."""
    order = ">" if syntax == _BIG else "<"
    out = b""
    for tag, vr, value in elements:
        body = value if isinstance(value, bytes) else _items(value, syntax, undefined)
        length = len(body) if isinstance(value, bytes) or not undefined else _UNDEFINED
        out += struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        if syntax == _IMPLICIT:
            out += struct.pack("<I", length)
        elif vr in _LONG:
            out += vr + struct.pack(order + "HI", 0, length)
        else:
            out += vr + struct.pack(order + "H", length)
        out += body
    return out


def _items(items: list[Elements], syntax: int, undefined: bool) -> bytes:
    out = b""
    for item in items:
        body = encode(item, syntax, undefined=undefined)
        out += _mark(_ITEM, _UNDEFINED if undefined else len(body), syntax) + body
        out += _mark(_ITEM_END, 0, syntax) if undefined else b""
    return out + (_mark(_SEQUENCE_END, 0, syntax) if undefined else b"")


def _mark(tag: int, length: int, syntax: int) -> bytes:
    return struct.pack((">" if syntax == _BIG else "<") + "HHI", tag >> 16, tag & 0xFFFF, length)


def head(**changed: bytes) -> Elements:
    """An MR image's header, as short as it may be, with some of all that is read of it."""
    region: Elements = [(0x00080100, b"SH", b"T-A0100 "), (0x00080102, b"SH", b"SRT "), (0x00080104, b"LO", b"Brain ")]
    spacing: Elements = [(0x00280030, b"DS", b"1\\1 ")]
    shared: Elements = [(0x00289110, b"SQ", [spacing])]
    return [
        (0x00080005, b"CS", b"ISO_IR 192"),
        (0x00080008, b"CS", b"ORIGINAL\\PRIMARY"),
        (0x00080016, b"UI", changed.get("sop_class", str(MRImageStorage).encode() + b"\0")),
        (0x00080018, b"UI", changed.get("sop_instance", _UID.encode())),
        (0x00080060, b"CS", b"MR"),
        (0x00080070, b"LO", b"dicom_node"),
        (0x00082218, b"SQ", [region]),
        (0x00100010, b"PN", b"Fuzz^A"),
        (0x00100020, b"LO", b"1 "),
        (0x00180050, b"DS", b"1.5 "),
        (0x0020000D, b"UI", changed.get("study", b"1.2.840.9")),
        (0x0020000E, b"UI", b"1.2.840.90"),
        (0x00200013, b"IS", b"1 "),
        (0x00200032, b"DS", b"0\\0\\1.5 "),
        (0x00280010, b"US", b"\1\0"),
        (0x52009229, b"SQ", [shared]),
    ]


_PIXELS: Elements = [(0x7FE00010, b"OW", b"\1\0")]
_FRAGMENTS = (
    b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\4\0\0\0abcd"
    b"\xfe\xff\xdd\xe0\0\0\0\0"
)


def nested(depth: int, *, undefined: bool) -> bytes:
    """A sequence in a sequence in a sequence ..."""
    data = encode([(0x00080104, b"LO", b"Brain ")])
    for _ in range(depth):
        sequence_length, item_length = (_UNDEFINED, _UNDEFINED) if undefined else (len(data) + 8, len(data))
        ends = _mark(_ITEM_END, 0, _EXPLICIT) + _mark(_SEQUENCE_END, 0, _EXPLICIT) if undefined else b""
        start = b"\x08\x00\x18\x22SQ\0\0" + struct.pack("<I", sequence_length)
        data = start + _mark(_ITEM, item_length, _EXPLICIT) + data + ends
    return data


def _with_length(item: bytes) -> bytes:
    return struct.pack("<I", len(item) + 8) + _mark(_ITEM, len(item), _EXPLICIT) + item


def deflate(data: bytes) -> bytes:
    """Deflated, without zlib's header (PS3.5 section A.5)."""
    deflator = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return deflator.compress(data) + deflator.flush()


def store(dataset: bytes, context: int = 1, uid: str = _UID, piece: int = 1 << 14) -> bytes:
    """One C-STORE, its dataset in pieces."""
    command = p_data(context, c_store_rq(1, str(MRImageStorage), uid), command=True)
    at = range(0, max(1, len(dataset)), piece)
    return command + b"".join(p_data(context, dataset[n : n + piece], last=n == at[-1]) for n in at)


def corpus() -> dict[str, bytes]:
    """All inputs, by name."""
    plain = encode(head() + _PIXELS)
    datasets = {
        "explicit": (_EXPLICIT, plain),
        "explicit_lengths": (_EXPLICIT, encode(head() + _PIXELS, undefined=False)),
        "explicit_padded": (_EXPLICIT, plain + bytes(64)),
        "implicit": (_IMPLICIT, encode(head() + _PIXELS, _IMPLICIT)),
        "implicit_lengths": (_IMPLICIT, encode(head() + _PIXELS, _IMPLICIT, undefined=False)),
        "big_endian": (_BIG, encode(head() + _PIXELS, _BIG)),
        "deflated": (_DEFLATED, deflate(plain)),
        "deflated_zeros": (_DEFLATED, deflate(plain + bytes(1 << 16))),
        "fragments": (_JPEG2000, encode(head()) + _FRAGMENTS),
        "nested": (_EXPLICIT, plain + nested(20, undefined=True)),
        "nested_lengths": (_EXPLICIT, plain + nested(20, undefined=False)),
        "nested_absurdly": (_EXPLICIT, plain + nested(120, undefined=True)),
        # Where an element has a length nothing is looked into, but by who reads it.
        "nested_within": (_EXPLICIT, plain + b"\x08\x00\x18\x22SQ\0\0" + _with_length(nested(400, undefined=True))),
        "uid_is_a_path": (_EXPLICIT, encode(head(study=b"../../etc/passwd"))),
        "as_implicit": (_EXPLICIT, encode(head(), _IMPLICIT)),
        "odd_values": (_EXPLICIT, encode([(0x00180050, b"DS", b"1e999\\-\\nan"), (0x00200013, b"IS", b"3.7 ")])),
        "unknown_vr": (_EXPLICIT, b"\x10\x00\x10\x00ZZ\x04\x00abcd" + plain),
        "unknown_vr_empty": (
            _EXPLICIT,
            plain + encode([(0x00082218, b"SQ", [[(0x00080100, b"SH", b"1 "), (0x00080104, b"Li", b"")]])]),
        ),
        "un_sequence": (_EXPLICIT, b"\x08\x00\x18\x22UN\0\0" + struct.pack("<I", 16) + bytes(16) + plain),
    }
    connections = {
        "store": store(plain),
        "store_pieces": store(plain, piece=50),
        "store_one_pdu": pdu(4, pdv(1, c_store_rq(1, str(MRImageStorage), _UID), command=True) + pdv(1, plain)),
        "store_two_pdvs": p_data(1, c_store_rq(1, str(MRImageStorage), _UID), command=True)
        + pdu(4, pdv(1, plain[:99], last=False) + pdv(1, plain[99:])),
        "store_thrice": store(plain) + store(encode(head(), _IMPLICIT), 3) + store(deflate(plain), 7),
        "store_differs": store(plain, uid="1.2.3"),
        "store_path": store(plain, uid="../../../tmp/x"),
        "store_abort": store(plain, piece=80)[:-60] + pdu(ABORT, bytes(4)),
        "store_nothing": store(b""),
        "store_wrong_context": store(plain, 99),
        "store_truncated": store(plain)[:-20],
        "echo": p_data(1, c_echo_rq(1), command=True) + pdu(RELEASE_RQ, bytes(4)),
        "long_pdu": b"\x04\0\xff\xff\xff\xff" + plain,
        "empty_pdv": p_data(1, c_store_rq(1, str(MRImageStorage), _UID), command=True) + pdu(4, pdv(1, b"") * 9),
    }
    commands = {"store": c_store_rq(7, str(MRImageStorage), _UID), "echo": c_echo_rq(7)}
    part10 = file_head(
        SOPClassUID=str(MRImageStorage), SOPInstanceUID=_UID, TransferSyntaxUID=SYNTAXES[0], source="A", called="B"
    )
    made = {f"dataset_{name}": bytes([DATASET + 4 * syntax]) + data for name, (syntax, data) in datasets.items()}
    made |= {f"connection_{name}": bytes([CONNECTION]) + data for name, data in connections.items()}
    made |= {f"command_{name}": bytes([COMMAND]) + data for name, data in commands.items()}
    return made | {"file": bytes([FILE_HEAD]) + part10 + plain}


def main() -> None:
    """Write them."""
    CORPUS.mkdir(exist_ok=True)
    for name, data in corpus().items():
        (CORPUS / name).write_bytes(data)


if __name__ == "__main__":
    main()
