"""What goes into every result object beside the findings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dicom_node.algorithm import Code
from dicom_node.encode.codes import for_research
from dicom_node.model.result import AlgorithmIdentity, ResultObject

MANUFACTURER = "dicom_node"
"""The Manufacturer of every result object: the receiver knows the node's own results by it."""

RESEARCH_USE = "For research use only. Not for diagnosis."


@dataclass(frozen=True)
class Context:
    """Who made a result, when, and what it is called.

    Attributes:
        identity: the algorithm.
        procedure: Procedure Reported, the imaging procedure (CID 100), not the algorithm.
        node_id: the node's name: Station Name of the results.
        key: what all result UIDs derive from. The same key must mean the same findings.
        when: local time of creation, written as given.
        series_number: Series Number of the SEG; the SR has the next one.
        institution_name: the site; empty leaves it out.
        comparison: tells what the report says of a prior study from what it would say of another, or of none: the UIDs
            of what says it derive from this too. Empty: nothing is compared.
        series_description: of the result series; ``{algorithm}``, ``{version}`` and ``{result}`` (``SEG``, ``SR``, ...)
            are filled in, and what it is for is added.
        source_dates: Series Date and Time are those of the source series, not those of the creation.
        predecessors: the SRs of the same study that a rerun replaces (Predecessor Documents Sequence): there is one
            for each encoding of the SEG that was sent.
    """

    identity: AlgorithmIdentity
    procedure: Code
    node_id: str
    key: str
    when: datetime
    series_number: int
    institution_name: str = ""
    series_description: str = "{algorithm} {result}"
    source_dates: bool = False
    predecessors: tuple[ResultObject, ...] = ()
    comparison: str = ""

    @property
    def compared(self) -> tuple[str, ...]:
        """What a UID derives from besides its role, where the object tells of the comparison."""
        return ("comparison", self.comparison) if self.comparison else ()

    def describe(self, result: str) -> str:
        """Series Description of one result, for example ``Hippocampus SEG (research use only)``."""
        identity = self.identity
        said = self.series_description.format(algorithm=identity.name, version=identity.version, result=result)
        return for_research(said)
