"""C-FIND matching of the fake PACS (PS3.4 Annex C.2.2, Study Root)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

FIND_LEVELS = ("STUDY", "SERIES", "IMAGE")
_UNIQUE_KEY = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


def answers(query: Dataset, held: Sequence[Dataset]) -> Iterator[Dataset]:
    """One identifier per match, with the keys of the query that are known.

    Matching: universal, single value, list of UID, wildcard (PS3.4 section C.2.2.2). An attribute below the
    query's level is answered with the first object's value; the counts of related series and instances are made up
    from what is held.

    Args:
        query: its QueryRetrieveLevel is one of ``FIND_LEVELS``.
    """
    level = query.QueryRetrieveLevel
    found: dict[str, list[Dataset]] = {}
    for ds in held:
        found.setdefault(str(ds[_UNIQUE_KEY[level]].value), []).append(ds)
    for group in found.values():
        counts = _counts(group)
        if all(_matches(element, group[0]) for element in query if element.keyword not in counts):
            yield _identifier(query, group[0], counts)


def _counts(group: Sequence[Dataset]) -> dict[str, Any]:
    return {
        "QueryRetrieveLevel": None,
        "SpecificCharacterSet": None,
        "NumberOfSeriesRelatedInstances": len(group),
        "NumberOfStudyRelatedInstances": len(group),
        "NumberOfStudyRelatedSeries": len({ds.SeriesInstanceUID for ds in group}),
        "ModalitiesInStudy": sorted({ds.Modality for ds in group}),
    }


def _matches(key: DataElement, ds: Dataset) -> bool:
    if key.is_empty or key.VR == "SQ":
        return True
    if key.tag not in ds or ds[key.tag].is_empty:
        return False
    value = str(ds[key.tag].value)
    wanted = key.value if isinstance(key.value, MultiValue) else [key.value]
    if key.VR == "UI":
        return value in [str(w) for w in wanted]
    return any(_pattern(str(w)).fullmatch(value) for w in wanted)


def _pattern(wildcards: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in wildcards))


def _identifier(query: Dataset, ds: Dataset, counts: dict[str, Any]) -> Dataset:
    answer = Dataset()
    answer.QueryRetrieveLevel = query.QueryRetrieveLevel
    if "SpecificCharacterSet" in ds:
        answer.SpecificCharacterSet = ds.SpecificCharacterSet
    for key in query:
        keyword = keyword_for_tag(key.tag)
        if keyword in counts:
            if counts[keyword] is not None:
                setattr(answer, keyword, counts[keyword])
        elif key.tag in ds:
            answer[key.tag] = ds[key.tag]
        else:
            answer.add_new(key.tag, key.VR, None)
    return answer
