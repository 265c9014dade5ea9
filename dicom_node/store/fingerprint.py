"""What a dataset's content is known by."""

from __future__ import annotations

import hashlib
import struct
import zlib

_BLOCK = 1 << 16


class Fingerprint:
    """A digest of bytes as they come, cheap enough for every image.

    SHA-256 over the CRC-32 of each block of 64 KiB and the length. SHA-256 over the bytes themselves would take as
    much of the processor's time as all the rest of receiving. The CRCs tell a damaged or another image from the one
    that came; against forgery they are no proof, and where two contents of one UID meet, the bytes are compared.
    """

    def __init__(self) -> None:
        self._sums = hashlib.sha256()
        self._crc = 0
        self._size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        at = 0
        view = memoryview(data)
        while at < len(view):
            step = min(_BLOCK - self._size % _BLOCK, len(view) - at)
            self._crc = zlib.crc32(view[at : at + step], self._crc)
            at += step
            self._size += step
            if self._size % _BLOCK == 0:
                self._sums.update(struct.pack("<I", self._crc))
                self._crc = 0

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        whole = self._sums.copy()
        whole.update(struct.pack("<IQ", self._crc, self._size))
        return whole.hexdigest()


def fingerprint(data: bytes | memoryview) -> str:
    """The fingerprint of bytes that are all here."""
    made = Fingerprint()
    made.update(data)
    return made.hexdigest()
