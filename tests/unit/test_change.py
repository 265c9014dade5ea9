"""The change since a prior study: computed, written with both studies, and computed again by the check."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from dicom_node.algorithm import Code, Findings, Measurement
from dicom_node.check.change import Prior
from dicom_node.check.objects import content
from dicom_node.check.results import check_folder, check_results
from dicom_node.encode.change import PriorStudy, prior_study, with_changes
from dicom_node.encode.results import encode_findings
from dicom_node.errors import EncodeError
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.unit.result_samples import HIPPOCAMPUS, SHAPE, SPACING, VOLUME, context, findings, headers

DAY = date(2026, 1, 5)
FRACTION = Code("8811-2", "LN", "Left ventricular ejection fraction by MR")


def compared(factor: float = 1.0, fraction: float = 55.0) -> Findings:
    """The sample's findings, whose measurements ask for their change; ``factor`` scales the left volume."""
    found = findings()
    left, right, total, *rest = found.measurements
    several = (
        replace(left, value=left.value * factor, compare="yearly"),
        replace(right, compare="yearly"),
        replace(total, compare=None),
        Measurement("Fraction", fraction, "%", FRACTION, HIPPOCAMPUS, compare="difference"),
        *rest,
    )
    return replace(found, measurements=several)


def earlier(day: str = "20250105", **header: Any) -> list[Dataset]:
    """Headers of the same place in a study of another day."""
    common = {"StudyDate": day, "PatientBirthDate": "19600101", **header}
    return [_renamed(ds, n) for n, ds in enumerate(headers(header=common))]


def _renamed(ds: Dataset, number: int) -> Dataset:
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.77", "2.25.78"
    ds.SOPInstanceUID = f"2.25.79{number}"
    return ds


def now() -> list[Dataset]:
    return headers(header={"StudyDate": "20260105", "PatientBirthDate": "19600101"})


def changes(found: Findings) -> dict[str, tuple[float, str]]:
    return {
        m.name: (round(m.value, 6), m.unit) for m in found.measurements if m.change_of or m.code.value == "385673002"
    }


def test_difference_and_percent_a_year() -> None:
    before = compared(factor=1.25, fraction=60.0)
    prior = prior_study(earlier("20240106"), before)
    found = with_changes(compared(), prior, DAY, ["Beware."])
    left = compared().measurements[0].value

    days = (DAY - date(2024, 1, 6)).days
    assert days == 730
    assert changes(found) == {
        "Interval since the prior study": (730, "d"),
        "Left hippocampus volume: change since the prior study": (round(-0.25 * left, 6), "mL"),
        "Left hippocampus volume: change per year": (round(-20 / (730 / 365.25), 6), "%/a"),
        "Right hippocampus volume: change since the prior study": (0.0, "mL"),
        "Right hippocampus volume: change per year": (0.0, "%/a"),
        "Fraction: change in points since the prior": (-5.0, "%"),
    }
    assert found.notes[-2:] == (
        "Compared with a prior study 730 days earlier, measured by the same algorithm, version and weights.",
        "Beware.",
    )


@pytest.mark.parametrize(("day", "yearly"), [("20250706", True), ("20250707", False)])
def test_below_half_a_year_there_is_no_change_a_year(day: str, yearly: bool) -> None:
    found = with_changes(compared(), prior_study(earlier(day), compared()), DAY)

    assert any(name.endswith("per year") for name in changes(found)) == yearly
    assert any("Less than half a year" in note for note in found.notes) != yearly


def test_what_the_prior_lacks_or_has_in_another_unit_has_no_change() -> None:
    before = compared()
    left, right, *rest = before.measurements
    prior = prior_study(earlier(), replace(before, measurements=(replace(left, unit="mm3"), *rest)))
    found = with_changes(compared(), prior, DAY)

    assert not any("hippocampus volume:" in name for name in changes(found))
    assert "no change of: Left hippocampus volume, Right hippocampus volume." in found.notes[-1]
    assert right.name in found.notes[-1]


def test_a_prior_without_date_is_none() -> None:
    with pytest.raises(EncodeError):
        prior_study(earlier(""), compared())


Written = tuple[list[Path], Findings, PriorStudy, Prior]


def write(out: Path, source: list[Dataset], views: tuple[str, ...] = ("contours",), **more: Any) -> Written:
    before, found = compared(factor=1.1, fraction=60.0), compared()
    prior = prior_study(earlier(**more), before)
    extended = with_changes(found, prior, DAY)
    paths = [o.path for o in encode_findings(extended, source, context(comparison="x"), out, views, prior)]
    return paths, found, prior, Prior(tuple(earlier(**more)), before)


def report(paths: list[Path]) -> Dataset:
    return pydicom.dcmread(next(p for p in paths if p.name == "sr.dcm"))


def test_the_report_refers_to_both_studies_and_passes_the_check(tmp_path: Path) -> None:
    paths, found, prior, again = write(tmp_path, now())
    sr = report(paths)

    (study,) = sr.PertinentOtherEvidenceSequence
    assert study.StudyInstanceUID == prior.study_uid
    (series,) = study.ReferencedSeriesSequence
    assert len(series.ReferencedSOPSequence) == SHAPE[0]
    (own,) = sr.CurrentRequestedProcedureEvidenceSequence
    assert own.StudyInstanceUID == sr.StudyInstanceUID
    assert check_results(paths, now(), findings=found, prior=again) == []


def test_a_report_of_another_comparison_has_another_uid_and_the_same_mask(tmp_path: Path) -> None:
    found = compared()
    uids = []
    for comparison in ("", "x", "y"):
        objects = encode_findings(found, now(), context(comparison=comparison), tmp_path, ("contours",))
        uids.append({o.role: o.SOPInstanceUID for o in objects})
    assert len({u["seg"] for u in uids}) == 1
    assert len({u["sr"] for u in uids}) == len({u["contours"] for u in uids}) == 3


def told(sr: Dataset, name: str) -> Dataset:
    """The measurement with that Tracking Identifier."""
    for item in content(sr, deep=True):
        if item.ValueType == "NUM" and any(c.get("TextValue") == name for c in item.get("ContentSequence", [])):
            return item
    raise AssertionError(name)


def set_value(item: Dataset, value: float) -> None:
    item.MeasuredValueSequence[0].NumericValue = str(value)
    item.MeasuredValueSequence[0].FloatingPointValue = value


def inferred(item: Dataset, of_prior: bool) -> Dataset:
    values = [c for c in item.ContentSequence if c.ValueType == "NUM"]
    found: Dataset = next(c for c in values if ("ContentSequence" in c) == of_prior)
    return found


CHANGE = "Left hippocampus volume: change since the prior study"
YEARLY = "Left hippocampus volume: change per year"
POINTS = "Fraction: change in points since the prior"


def another_change(sr: Dataset) -> None:
    set_value(told(sr, CHANGE), 1.5)


def another_yearly_change(sr: Dataset) -> None:
    set_value(told(sr, YEARLY), -1.0)


def another_prior_value(sr: Dataset) -> None:
    item = told(sr, POINTS)
    set_value(inferred(item, of_prior=True), 70.0)
    set_value(item, -15.0)


def another_current_value(sr: Dataset) -> None:
    item = told(sr, POINTS)
    set_value(inferred(item, of_prior=False), 50.0)
    set_value(item, -10.0)


def no_prior_value(sr: Dataset) -> None:
    item = told(sr, POINTS)
    item.ContentSequence.remove(inferred(item, of_prior=True))


def another_study(sr: Dataset) -> None:
    (uid,) = (c for c in inferred(told(sr, POINTS), of_prior=True).ContentSequence if c.ValueType == "UIDREF")
    uid.UID = "2.25.1234"


def no_evidence(sr: Dataset) -> None:
    del sr.PertinentOtherEvidenceSequence


def less_evidence(sr: Dataset) -> None:
    del sr.PertinentOtherEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]


def no_change(sr: Dataset) -> None:
    for item in content(sr, deep=True):
        kept = [c for c in item.get("ContentSequence", []) if c is not told_in(c)]
        if "ContentSequence" in item and len(kept) != len(item.ContentSequence):
            item.ContentSequence = kept


def told_in(item: Dataset) -> Dataset | None:
    named = any(c.get("TextValue") == POINTS for c in item.get("ContentSequence", []))
    return item if item.ValueType == "NUM" and named else None


BREAKS: list[tuple[Callable[[Dataset], None], str]] = [
    (another_change, f"{CHANGE} is 1.5, its two values give"),
    (another_yearly_change, f"{YEARLY} is -1, its two values give"),
    (another_prior_value, f"{POINTS} is computed from 70, the prior's findings have 60"),
    (another_current_value, f"{POINTS} is computed from 50, this study's findings have 55"),
    (no_prior_value, f"{POINTS} is not said to be computed from one value of each study"),
    (another_study, "the changes are since the study 2.25.1234, 2.25.77"),
    (no_evidence, "Pertinent Other Evidence is not the prior study's images"),
    (less_evidence, "Pertinent Other Evidence is not the prior study's images"),
    (no_change, "the change of Fraction (CHANGE-PRIOR) is missing"),
]


@pytest.mark.parametrize(("damage", "words"), BREAKS, ids=[b.__name__ for b, _ in BREAKS])
def test_the_check_names_each_wrong_change(tmp_path: Path, damage: Callable[[Dataset], None], words: str) -> None:
    paths, found, _, again = write(tmp_path, now(), ())
    sr = report(paths)
    damage(sr)
    sr.save_as(tmp_path / "sr.dcm", enforce_file_format=True)

    problems = check_results(paths, now(), findings=found, prior=again)
    assert any(words in p for p in problems), problems


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"PatientID": "ANOTHER"}, "the prior study's PatientID is not that"),
        ({"IssuerOfPatientID": "ELSEWHERE"}, "the prior study's IssuerOfPatientID is not that"),
        ({"PatientBirthDate": "19700101"}, "the prior study's PatientBirthDate is not that"),
        ({"StudyDate": "20260105"}, "not known to be earlier"),
    ],
)
def test_the_check_refuses_a_prior_of_another_patient_or_of_the_same_day(
    tmp_path: Path, header: dict[str, str], words: str
) -> None:
    paths, found, _, again = write(tmp_path, now(), ())
    other = Prior(tuple(earlier(**{"day": header.pop("StudyDate", "20250105"), **header})), again.findings)

    problems = check_results(paths, now(), findings=found, prior=other)
    assert any(re.search(words, p) for p in problems), problems
    assert not any("ANOTHER" in p for p in problems)


def test_a_run_without_prior_must_not_tell_a_change(tmp_path: Path) -> None:
    paths, found, _, _ = write(tmp_path, now(), ())
    assert any("compared with none" in p for p in check_results(paths, now(), findings=found))


def test_a_folder_is_checked_without_the_prior_and_beside_it(tmp_path: Path) -> None:
    source = slice_datasets_with(now())
    save(tmp_path / "images", source)
    write(tmp_path / "out", source, ("contours",))
    assert [p for p in check_folder(tmp_path / "out", tmp_path / "images") if not p.startswith("note")] == []


def slice_datasets_with(like: list[Dataset]) -> list[Dataset]:
    """The same headers with pixels, so that they can be files."""
    affine = plane_affine(PLANES["sagittal"], SPACING, (-60, -100, 80))
    common = {"BodyPartExamined": "BRAIN", "StudyDate": "20260105", "PatientBirthDate": "19600101"}
    datasets = slice_datasets(np.ones(SHAPE, np.uint16), affine, header=common)
    assert [d.SOPInstanceUID for d in datasets] == [d.SOPInstanceUID for d in like]
    return datasets


def test_the_code_of_a_change_is_not_that_of_a_volume() -> None:
    found = with_changes(compared(), prior_study(earlier(), compared()), DAY)
    assert VOLUME.value not in {m.code.value for m in found.measurements if m.change_of}
