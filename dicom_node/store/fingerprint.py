"""What a dataset's content is known by."""

from __future__ import annotations

import xxhash


class Fingerprint:
    """A digest of bytes as they come, cheap enough for every image.

    XXH3 with 128 bits (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md). SHA-256 would take as much of
    the processor's time as all the rest of receiving. It tells a damaged or another image from the one that came;
    against forgery it is no proof, and where two contents of one UID meet, the bytes are compared.
    """

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._hash.update(data)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._hash.hexdigest()
