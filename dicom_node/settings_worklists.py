"""The settings of worklists: UPS-RS origin servers that the node takes work from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from dicom_node.settings_peers import PeerSettings, Section

CodeValue = Annotated[str, Field(min_length=1, max_length=16)]
Scheme = Annotated[str, Field(min_length=1, max_length=16)]


class StationCode(Section):
    """The node as a coded station (PS3.3 section 8.8)."""

    value: CodeValue
    scheme: Scheme
    meaning: str = Field(min_length=1, max_length=64)


class WorkitemCode(Section):
    """A Scheduled Workitem Code, and the algorithm that does such work here."""

    value: CodeValue
    scheme: Scheme
    algorithm: str
    """The id of an algorithm that a rule runs."""


class Worklist(PeerSettings):
    """One UPS-RS origin server (PS3.18 section 11), of whose workitems the node is a performer."""

    workitems: tuple[WorkitemCode, ...]
    """Which workitems are taken, and what is run for them."""
    station: StationCode | None = None
    """The node's Station Name Code: a workitem that is scheduled for other stations only is left to them. None: it is
    made of ``node_id``."""
    source: str | None = None
    """Name of the source that input comes from where the workitem names none of ``sources``."""
    every_seconds: float = Field(10, gt=0)
    """How often the worklist is searched, and the node's own workitems are looked at."""
    at_once: int = Field(4, ge=1)
    """So many workitems are claimed at a time; the rest is left to other performers."""
    subscribe: bool = False
    """Hear of new workitems and of requests to cancel at once, over a WebSocket (PS3.18 section 8.10)."""
    retry_first_seconds: float = Field(5, gt=0)
    """Wait before the server is asked again after a failure; doubles each time."""
    retry_longest_seconds: float = Field(300, gt=0)
    """The wait never grows beyond this."""
    give_up_hours: float = Field(72, gt=0)
    """A workitem whose end the server could not be told for so long is given up."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """As for each peer, and what a worklist needs."""
        yield from super().problems()
        yield from self.lacks("a worklist", "dicomweb_url")
        if not self.workitems:
            yield "workitems", "name at least one: {value, scheme, algorithm}"
        codes = [(w.value, w.scheme) for w in self.workitems]
        for value, scheme in codes:
            if codes.count((value, scheme)) > 1:
                yield "workitems", f"the code ({value}, {scheme}) is there twice"
