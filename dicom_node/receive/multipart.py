"""Multipart messages (RFC 2046 section 5.1) that come piece by piece, as requests (STOW-RS) and answers (WADO-RS)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dicom_node.errors import InvalidInstance

_MOST_HEADERS = 32
_LONGEST_HEADER = 4096


class Part(Protocol):
    """What takes one part's body."""

    def write(self, data: memoryview) -> None:
        """A piece came."""

    def close(self) -> None:
        """It was the last."""


class MultipartReader:
    """Splits a multipart/related message into its parts, while it comes.

    Args:
        content_type: the message's.
        open_part: makes what takes a part, from its headers (names in lower case).

    Raises:
        InvalidInstance: on construction: the content type is another, or names no boundary.
    """

    def __init__(self, content_type: str, open_part: Callable[[Mapping[str, str]], Part]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind.lower() != b"multipart/related" or not boundary:
            raise InvalidInstance("the content type is not multipart/related with a boundary")
        self._open_part = open_part
        self._part: Part | None = None
        self._headers: dict[str, str] = {}
        self._name = self._value = b""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_begin,
                    "on_header_field": self._on_name,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_end,
                    "on_end": self._on_message_end,
                },
                max_header_count=_MOST_HEADERS,
                max_header_size=_LONGEST_HEADER,
            )
        except FormParserError as e:
            raise InvalidInstance("the boundary of the multipart message is too long") from e

    def write(self, data: bytes) -> None:
        """Take a piece of the message.

        Raises:
            InvalidInstance: the message is not multipart.
        """
        try:
            self._parser.write(data)
        except FormParserError as e:
            raise InvalidInstance("the multipart message is malformed") from e

    def finish(self) -> None:
        """The message is all here.

        Raises:
            InvalidInstance: it breaks off before its last boundary.
        """
        if not self._ended:
            raise InvalidInstance("the multipart message breaks off before its end")

    def _on_begin(self) -> None:
        self._headers = {}

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1").strip()
        self._name = self._value = b""

    def _on_headers(self) -> None:
        self._part = self._open_part(self._headers)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._part.write(memoryview(data)[start:end])

    def _on_end(self) -> None:
        if self._part is not None:
            self._part.close()
        self._part = None

    def _on_message_end(self) -> None:
        self._ended = True
