"""What goes into every result object beside the findings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dicom_node.algorithm import Code
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
        predecessor: the SR of the same study that a rerun replaces (Predecessor Documents Sequence).
        comparison: tells what the report says of a prior study from what it would say of another, or of none: the UIDs
            of what says it derive from this too. Empty: nothing is compared.
    """

    identity: AlgorithmIdentity
    procedure: Code
    node_id: str
    key: str
    when: datetime
    series_number: int
    institution_name: str = ""
    predecessor: ResultObject | None = None
    comparison: str = ""

    @property
    def compared(self) -> tuple[str, ...]:
        """What a UID derives from besides its role, where the object tells of the comparison."""
        return ("comparison", self.comparison) if self.comparison else ()
