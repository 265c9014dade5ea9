"""From a dataset's bytes, as they came or from a Part 10 file, to an Instance."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.filereader import read_dataset
from pydicom.tag import Tag

from dicom_node.errors import InvalidInstance
from dicom_node.model.instance import Instance, valid_uid
from dicom_node.receive.alike import Alike, Elements
from dicom_node.receive.elements import Data, Encoding, encoding_of, inflated, outline
from dicom_node.receive.tags import (
    HEADER_SEQUENCES,
    JSON,
    PIXEL_KEYWORDS,
    TAG_KEYWORDS,
    UNREADABLE,
    items,
    latin_value,
    routing_tags,
    text,
)
from dicom_node.store.fingerprint import Fingerprint

NODE_MANUFACTURER = "dicom_node"
"""The Manufacturer in the node's own results."""

_IMPLEMENTATION_CLASS_UID = "2.25.190146791043182537562806132570465986051"
_IMPLEMENTATION_VERSION_NAME = "DICOM_NODE"
_PREAMBLE = bytes(128) + b"DICM"
_LONGEST_HEADER_VALUE = 1 << 20
_LONGEST_HEADER = 1 << 23
"""Of what is read together: an element may come again and again."""
_LONGEST_UID_ELEMENT = 128

# Plain numbers: pydicom's tags compare slowly.
_WANTED = frozenset(
    int(Tag(k))
    for k in (
        *TAG_KEYWORDS,
        *HEADER_SEQUENCES,
        "SpecificCharacterSet",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "PatientID",
        "IssuerOfPatientID",
        "PatientName",
        "PatientBirthDate",
        "ContributingEquipmentSequence",
    )
)
_STUDY = int(Tag("StudyInstanceUID"))
_PIXELS = frozenset(int(Tag(k)) for k in PIXEL_KEYWORDS)
_LOOKED_FOR = _WANTED | _PIXELS
_LONGEST_CACHED = 1 << 14

_VARYING: Mapping[int, tuple[str, str]] = {
    int(Tag(keyword)): (keyword, dictionary_VR(keyword))
    for keyword in (
        "SOPInstanceUID",
        "InstanceNumber",
        "AcquisitionNumber",
        "ImagePositionPatient",
        "TriggerTime",
        "TemporalPositionIdentifier",
    )
}
"""What differs from one image of a series to the next: read without pydicom."""


@dataclass(frozen=True)
class FileHead:
    """What the node reads of a file meta information (PS3.10 section 7.1), and where the dataset begins."""

    TransferSyntaxUID: str
    SourceApplicationEntityTitle: str
    ReceivingApplicationEntityTitle: str
    dataset_at: int
    MediaStorageSOPClassUID: str = ""
    MediaStorageSOPInstanceUID: str = ""


@dataclass(frozen=True)
class _Common:
    """What many instances of a series have in common, as the index keeps it."""

    uids: Mapping[str, str]
    patient_key: str
    own: bool
    tags: Mapping[str, JSON]


def make_instance(
    dataset: Data,
    *,
    TransferSyntaxUID: str,
    digest: str = "",
    path: str | Callable[[str, str, str], str] = "",
    size: int = 0,
    source: str = "",
    called: str = "",
) -> Instance:
    """Everything the index keeps about a dataset. ``own`` is what the header says.

    Pixels are passed over, but all of the dataset must be there.

    Args:
        digest: the dataset's fingerprint, if it is known already.
        path: where the file is, or what tells that from Study, Series and SOP Instance UID.

    Raises:
        InvalidInstance: truncated, not DICOM, or a UID is missing or is none.
    """
    common, varying = _read(dataset, TransferSyntaxUID)
    uids = {**common.uids, "SOPInstanceUID": str(varying.pop("SOPInstanceUID", common.uids["SOPInstanceUID"]))}
    for keyword, uid in uids.items():
        if not uid:
            raise InvalidInstance(f"{keyword} is missing or cannot be read")
    return Instance(
        **uids,
        TransferSyntaxUID=TransferSyntaxUID,
        digest=digest or _fingerprint(dataset),
        path=path
        if isinstance(path, str)
        else path(*(uids[f"{level}InstanceUID"] for level in ("Study", "Series", "SOP"))),
        size=size,
        patient_key=common.patient_key,
        tags={**common.tags, **varying},
        own=common.own,
        source=source,
        called=called,
    )


def _read(dataset: Data, transfer_syntax: str) -> tuple[_Common, dict[str, JSON]]:
    """What the header says: in common with its series, and of its own."""
    same: list[bytes] = []
    pixels: list[int] = []
    varying: dict[str, JSON] = {}
    size = 0
    data = inflated(dataset, transfer_syntax)
    encoding = encoding_of(data, transfer_syntax)
    for part in _parts(data, encoding):
        size += part.size
        if size > _LONGEST_HEADER:
            raise InvalidInstance(f"its header is larger than {_LONGEST_HEADER >> 20} MiB")
        same += part.same
        varying.update(part.varying)
        pixels += part.pixels
    joined = b"".join(same)
    read = _common_cached if len(joined) <= _LONGEST_CACHED else _read_common
    return read(joined, tuple(dict.fromkeys(pixels)), encoding.implicit, encoding.little), varying


@dataclass(frozen=True)
class _Part:
    """What a header needs of elements that follow one another; ``size``: the bytes of what is wanted of them."""

    same: Sequence[bytes]
    varying: Mapping[str, JSON]
    pixels: Sequence[int]
    size: int


_NOTHING_WANTED: Final = _Part((), {}, (), 0)


def _part(elements: Elements, implicit: bool) -> _Part:
    same: list[bytes] = []
    varying: dict[str, JSON] = {}
    pixels: list[int] = []
    size = 0
    for tag, element in elements:
        if tag in _PIXELS:
            pixels.append(tag)
        elif tag in _WANTED and len(element) <= _LONGEST_HEADER_VALUE:
            raw = bytes(element)
            size += len(raw)
            keyword, vr = _VARYING.get(tag, ("", ""))
            if not keyword or not (implicit or raw[4:6] == vr.encode()):
                same.append(raw)
            elif (value := latin_value(vr, raw[8:])) is not None:
                varying[keyword] = value
    return _Part(same, varying, pixels, size) if same or varying or pixels else _NOTHING_WANTED


_ALIKE: Final = {
    encoding: Alike(encoding, partial(_part, implicit=encoding.implicit))
    for encoding in (Encoding(implicit=False, little=True), Encoding(implicit=True, little=True))
}


def _parts(data: Data, encoding: Encoding) -> Iterable[_Part]:
    if isinstance(data, bytes | memoryview) and encoding in _ALIKE:
        return _ALIKE[encoding].read(data)
    return _parts_of_file(data, encoding)


def _parts_of_file(data: Data, encoding: Encoding) -> Iterator[_Part]:
    for tag, start, stop in outline(data, encoding, _LOOKED_FOR):
        if tag in _PIXELS:
            yield _part([(tag, memoryview(b""))], encoding.implicit)
        elif stop - start <= _LONGEST_HEADER_VALUE:
            yield _part([(tag, memoryview(bytes(data[start:stop])))], encoding.implicit)


def _read_common(elements: bytes, pixels: tuple[int, ...], implicit: bool, little: bool) -> _Common:
    try:
        ds = read_dataset(BytesIO(elements), implicit, little)
    except UNREADABLE as e:
        raise InvalidInstance("the dataset cannot be read") from e
    for tag in pixels:
        ds.add_new(tag, "OW", None)
    uids = {k: text(ds, k) for k in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID")}
    return _Common(uids, _patient_key(ds), made_by_node(ds), routing_tags(ds))


# From one image of a series to the next most of the header stays the same, and pydicom takes a millisecond for it.
_common_cached = lru_cache(maxsize=256)(_read_common)


def _fingerprint(dataset: Data) -> str:
    made = Fingerprint()
    for at in range(0, len(dataset), _LONGEST_HEADER_VALUE):
        made.update(dataset[at : at + _LONGEST_HEADER_VALUE])
    return made.hexdigest()


def study_of(dataset: Data, transfer_syntax: str) -> str:
    """The Study Instance UID of a dataset that may be damaged behind it; empty where it cannot be read."""
    try:
        data = inflated(dataset, transfer_syntax)
        encoding = encoding_of(data, transfer_syntax)
        for element in outline(data, encoding, frozenset((_STUDY,))):
            raw = bytes(data[element.start : min(element.stop, element.start + _LONGEST_UID_ELEMENT)])
            uid = text(read_dataset(BytesIO(raw), encoding.implicit, encoding.little), "StudyInstanceUID")
            return uid if valid_uid(uid) else ""
    except (InvalidInstance, *UNREADABLE):
        return ""  # the damage lies before it
    return ""


def made_by_node(ds: Dataset) -> bool:
    """Whether the header says that the object is a node's result: a SEG or SR with the node's Manufacturer."""
    if text(ds, "Modality") not in ("SEG", "SR"):
        return False
    makers = [text(ds, "Manufacturer")]
    makers += [text(item, "Manufacturer") for item in items(ds, "ContributingEquipmentSequence")]
    return NODE_MANUFACTURER in makers


def file_head(
    *, SOPClassUID: str, SOPInstanceUID: str, TransferSyntaxUID: str, source: str = "", called: str = ""
) -> bytes:
    """Preamble, prefix and file meta information, which also keeps who sent the instance to whom.

    Raises:
        InvalidInstance: one of the UIDs is none.
    """
    for uid in (SOPClassUID, SOPInstanceUID, TransferSyntaxUID):
        if not valid_uid(uid):
            raise InvalidInstance(f"{uid[:80]!r} is not a valid UID")
    elements = [
        b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",
        _meta(0x0002, "UI", SOPClassUID),
        _meta(0x0003, "UI", SOPInstanceUID),
        _meta(0x0010, "UI", TransferSyntaxUID),
        _meta(0x0012, "UI", _IMPLEMENTATION_CLASS_UID),
        _meta(0x0013, "SH", _IMPLEMENTATION_VERSION_NAME),
    ]
    elements += [_meta(0x0016, "AE", source)] if source else []
    elements += [_meta(0x0018, "AE", called)] if called else []
    group = b"".join(elements)
    return _PREAMBLE + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(group)) + group


def read_file_head(data: bytes) -> FileHead:
    """The head of a Part 10 file.

    Raises:
        InvalidInstance: it is none, or names no transfer syntax.
    """
    if data[128:132] != b"DICM":
        raise InvalidInstance("it is no DICOM file: the prefix DICM is missing")
    values: dict[int, str] = {}
    at = 132
    while data[at : at + 2] == b"\x02\x00":
        # Always explicit VR little endian, whatever the dataset is (PS3.10 section 7.1).
        element, vr = struct.unpack_from("<H2s", data, at + 2) if len(data) >= at + 12 else (0, b"")
        if not vr:
            raise InvalidInstance("the file meta information is truncated")
        long = vr in (b"OB", b"UN", b"UT")
        start = at + (12 if long else 8)
        (length,) = struct.unpack_from("<I" if long else "<H", data, at + (8 if long else 6))
        values[element] = data[start : start + length].decode("ascii", "replace").strip(" \0")
        at = start + length
    if not values.get(0x0010):
        raise InvalidInstance("the file meta information has no TransferSyntaxUID")
    titles = (values.get(0x0016, ""), values.get(0x0018, ""))
    return FileHead(values[0x0010], *titles, at, values.get(0x0002, ""), values.get(0x0003, ""))


def file_head_size(data: bytes | bytearray) -> int:
    """How many bytes of a Part 10 file its head takes, as far as the beginning ``data`` of the file shows.

    0: not enough is there to tell, or the group has no length.
    """
    if len(data) < 144 or bytes(data[132:140]) != b"\x02\x00\x00\x00UL\x04\x00":
        return 0
    (length,) = struct.unpack_from("<I", data, 140)
    return 144 + int(length)


@lru_cache(maxsize=256)
def _meta(element: int, vr: str, value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    raw += b"" if len(raw) % 2 == 0 else b"\0" if vr == "UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr.encode(), len(raw)) + raw


def _patient_key(ds: Dataset) -> str:
    """Tells patients apart: by ID and its issuer; where the ID is empty, by name and date of birth."""
    keywords = ("PatientID", "IssuerOfPatientID") if text(ds, "PatientID") else ("PatientName", "PatientBirthDate")
    named = "\0".join(text(ds, keyword) for keyword in keywords)
    return hashlib.sha256(named.encode()).hexdigest()
