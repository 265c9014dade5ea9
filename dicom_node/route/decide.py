"""Which series of a study go to which algorithm: one answer with its reason for each rule and series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dicom_node.model.body_part import infer_body_part
from dicom_node.model.evidence import Evidence, number, numbers, values, words
from dicom_node.model.instance import Series
from dicom_node.model.organ import infer_organ
from dicom_node.model.routing import STUDY_INPUTS
from dicom_node.route.contrast_agent import enhanced
from dicom_node.route.heartbeats import cine_together
from dicom_node.route.rules import Condition, Rule
from dicom_node.route.series_kind import infer_series_kind, slice_count, without_localizers

# People type into these: a reason must not repeat what may be a name.
_FREE_TEXT = frozenset(
    {"StudyDescription", "SeriesDescription", "ProtocolName", "PerformedProcedureStepDescription", "TransducerData"}
    | {"ContrastBolusAgent", "StationName", "InstitutionName"}
)


@dataclass(frozen=True)
class Route:
    """One rule's answer for one series.

    Attributes:
        wanted: whether the algorithm runs on it.
        reason: why, or why not (no patient data).
        deliver_to: names of destinations.
    """

    rule: str
    series_uid: str
    algorithm: str
    wanted: bool
    reason: str
    deliver_to: tuple[str, ...]


@dataclass(frozen=True)
class Decision:
    """What becomes of a study.

    Attributes:
        refused: why nothing of the study may be analysed, or None.
        routes: one for each rule and series, in the order of the rules and of the series' numbers.
    """

    refused: str | None
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class _Candidate:
    """A series with what was inferred of it."""

    series: Series
    tags: Mapping[str, Any]
    kind: Evidence
    part: Evidence
    slices: int

    @property
    def name(self) -> str:
        n = number(self.tags, "SeriesNumber")
        return "a series without number" if n is None else f"series {n:.0f}"

    @property
    def original(self) -> bool:
        return "DERIVED" not in words(self.tags, "ImageType")

    @property
    def voxel_mm3(self) -> float:
        """Infinite when the headers do not say."""
        spacing = numbers(self.tags, "PixelSpacing")
        step = number(self.tags, "SpacingBetweenSlices") or number(self.tags, "SliceThickness")
        return abs(spacing[0] * spacing[1] * step) if len(spacing) == 2 and step else float("inf")


def decide(series: Sequence[Series], rules: Sequence[Rule], accepts: Mapping[str, Mapping[str, Any]]) -> Decision:
    """Decide for a whole study. The same study and rules always give the same decision.

    The node's own results never count. Within a rule the best series is wanted: first the kind that the rule names
    first, then native before contrast-enhanced, original before derived, more slices, finer voxels, lower Series
    Number. Each that suits is wanted if the rule says ``series: all``, or if the algorithm takes a cine or frames,
    which scanners send in one series or in many. An algorithm that an earlier rule runs is not run again by a later
    one, except on other series by a rule with ``series: all``.

    Args:
        series: the series of one study.
        accepts: by algorithm id, what its manifest accepts (``Modality``: list, empty for any; ``min_slices``),
            and its ``input``.
    """
    foreign = [replace(s, instances=tuple(i for i in s.instances if not i.own)) for s in series]
    foreign = [s for s in foreign if s.instances]
    patients = {i.patient_key for s in foreign for i in s.instances}
    if len(patients) > 1:
        return Decision(f"it holds instances of {len(patients)} patients under one Study Instance UID", ())
    together = cine_together(foreign)
    candidates = sorted((_candidate(s, together.get(s.SeriesInstanceUID)) for s in foreign), key=_order)
    routes: list[Route] = []
    taken: dict[str, dict[str, str]] = {}  # algorithm -> series UID -> the rule that wants it
    for rule in rules:
        routes += _apply(rule, candidates, accepts.get(rule.algorithm, {}), taken.setdefault(rule.algorithm, {}))
    return Decision(None, tuple(routes))


def _candidate(series: Series, kind: Evidence | None) -> _Candidate:
    images = [i for i in series.instances if number(i.tags, "Rows")]
    tags = without_localizers(images)[0].tags if images else series.tags
    kind = kind or infer_series_kind(series)
    ultrasound = "US" in words(tags, "Modality")
    part = infer_organ([i.tags for i in images]) if ultrasound else infer_body_part(tags)
    return _Candidate(series, tags, kind, part, slice_count(series))


def _order(c: _Candidate) -> tuple[float, str]:
    n = number(c.tags, "SeriesNumber")
    return float("inf") if n is None else n, c.series.SeriesInstanceUID


def _apply(
    rule: Rule, candidates: Sequence[_Candidate], accepts: Mapping[str, Any], taken: dict[str, str]
) -> list[Route]:
    """One rule's routes; series that it wants are added to ``taken``."""
    against = {c.series.SeriesInstanceUID: _against(rule, c, accepts) for c in candidates}
    suitable = [c for c in candidates if not against[c.series.SeriesInstanceUID]]
    choose = rule.series == "best" and accepts.get("input") not in STUDY_INPUTS
    best = min(suitable, key=lambda c: _rank(rule, c), default=None)
    earlier = dict(taken)
    routes = []
    for c in candidates:
        uid = c.series.SeriesInstanceUID
        reason = against[uid]
        if not reason and earlier and (rule.series == "best" or uid in earlier):
            reason = f"rule {earlier.get(uid) or next(iter(earlier.values()))!r} already runs {rule.algorithm}"
        if not reason and choose and best is not None and c is not best:
            reason = f"{best.name} is preferred: {_preferred_because(rule, best, c)}"
        wanted = not reason
        if wanted:
            taken[uid] = rule.name
        routes.append(Route(rule.name, uid, rule.algorithm, wanted, reason or _why(rule, c), rule.deliver_to))
    return routes


def _against(rule: Rule, c: _Candidate, accepts: Mapping[str, Any]) -> str:
    """Why the series does not suit, or nothing."""
    for condition in rule.when:
        found = _values(condition.keyword, c)
        if not condition.holds(found):
            return _failed(condition, found, c)
    modalities = [str(m).upper() for m in accepts.get("Modality") or ()]
    modality = next(iter(words(c.tags, "Modality")), "")
    if modalities and modality not in modalities:
        return f"{rule.algorithm} takes {' or '.join(modalities)}, and this is {modality or 'without Modality'}"
    fewest = int(accepts.get("min_slices") or 0)
    if c.slices < fewest:
        return f"{rule.algorithm} takes {fewest} slices or more, and these are {c.slices}"
    return ""


def _values(keyword: str, c: _Candidate) -> list[Any]:
    match keyword:
        case "body_part":
            return [c.part.value]
        case "series_kind":
            return [c.kind.value]
        case "images":
            return [c.slices]
        case "calling_ae_title":
            return sorted({i.source for i in c.series.instances if i.source})
        case "called_ae_title":
            return sorted({i.called for i in c.series.instances if i.called})
    return values(c.tags, keyword)


def _failed(condition: Condition, found: Sequence[Any], c: _Candidate) -> str:
    keyword = condition.keyword
    if keyword in ("body_part", "series_kind"):
        evidence = c.part if keyword == "body_part" else c.kind
        return f"{keyword} is {evidence}, the rule wants {condition}"
    if keyword in _FREE_TEXT:
        return f"{keyword} is {'not what the rule wants' if found else 'empty'}; the rule wants {condition}"
    said = ", ".join(map(str, found)) if found else "empty"
    return f"{keyword} is {said}, the rule wants {condition}"


def _why(rule: Rule, c: _Candidate) -> str:
    asked = [k.keyword for k in rule.when if k.keyword not in ("body_part", "series_kind")]
    also = f"; {', '.join(asked)} as the rule wants" if asked else ""
    unit = "image" if "US" in words(c.tags, "Modality") else "slice"
    return f"body part {c.part}, series kind {c.kind}, {c.slices} {unit}{'' if c.slices == 1 else 's'}{also}"


def _kind_rank(rule: Rule, c: _Candidate) -> int:
    for condition in rule.when:
        if condition.keyword == "series_kind" and c.kind.value in condition.test.any_of:
            return condition.test.any_of.index(c.kind.value)
    return 0


def _rank(rule: Rule, c: _Candidate) -> tuple[Any, ...]:
    """Smaller is better."""
    return (_kind_rank(rule, c), enhanced(c.tags), not c.original, -c.slices, round(c.voxel_mm3, 4), *_order(c))


def _preferred_because(rule: Rule, best: _Candidate, other: _Candidate) -> str:
    if _kind_rank(rule, best) != _kind_rank(rule, other):
        return f"it is {best.kind.value}, this one {other.kind.value}"
    if enhanced(best.tags) != enhanced(other.tags):
        return "it is native, this one was acquired after contrast medium"
    if best.original != other.original:
        return "it is original, this one derived"
    if best.slices != other.slices:
        return f"it has {best.slices} slices, this one {other.slices}"
    if round(best.voxel_mm3, 4) != round(other.voxel_mm3, 4):
        return f"its voxels are finer ({best.voxel_mm3:.2f} mm³, here {other.voxel_mm3:.2f})"
    return "it comes first"
