"""A run and its prior study: the prior is measured as the run's own images are, and the two are compared.

Numbers are compared only if the same algorithm, version and weights made them: a run of exactly these on the prior's
images is taken over, else the prior is measured anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset

from dicom_node import log
from dicom_node.algorithm import Findings
from dicom_node.check.change import Prior
from dicom_node.encode.change import PriorStudy, prior_study, study_day, with_changes
from dicom_node.errors import AlgorithmError
from dicom_node.model.uids import derive_uid
from dicom_node.run.findings_io import load_findings
from dicom_node.run.registry import Algorithm
from dicom_node.store.runs import RunRow
from dicom_node.workflow.services import Services, result_key

_FINDINGS = ("findings.npz", "findings.json")
_SCANNER = ("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength")

_logger = log.get("workflow")


@dataclass(frozen=True)
class Compared:
    """A run's findings beside those of its prior study.

    Attributes:
        findings: the run's own, with the changes and what is to be said of the comparison.
        prior: what the report refers to; None: nothing is compared.
        checked: the same for the check.
    """

    findings: Findings
    prior: PriorStudy | None = None
    checked: Prior | None = None


def measure_prior(s: Services, run: RunRow, algorithm: Algorithm) -> dict[str, Any] | None:
    """Have findings of the prior in the run's folder.

    Returns:
        The record's ``prior`` with ``findings``: the run that they were taken over from, or ``measured`` for this one;
        ``state`` is ``none``, with the ``reason``, if there are none. None: the run was not to be compared.
    """
    prior: dict[str, Any] | None = run.record.get("prior")
    if prior is None or prior["state"] != "found":
        return prior
    instances = s.index.instances(prior["inputs"])
    paths = [s.files.path(i.path) for i in instances]
    if len(paths) != len(prior["inputs"]) or not all(p.is_file() for p in paths):
        return _without(prior, "its images are gone from the store")
    out = prior_folder(s, run)
    key = result_key(s.settings, algorithm, prior["StudyInstanceUID"], instances)
    earlier = s.runs.get(derive_uid("run", key))
    if earlier is not None and _take_over(s.folder(earlier.run_id), earlier, algorithm, out):
        return {**prior, "findings": earlier.run_id}
    try:
        answer = s.pool.run(algorithm, paths, out)
    except AlgorithmError as e:
        _logger.error("prior_not_measured", run=run.run_id, reason=str(e))
        return _without(prior, "its analysis did not come to an end")
    if answer["outcome"] != "found":
        failed = answer["outcome"] == "failed"
        return _without(prior, "its analysis failed" if failed else str(answer["reason"]).strip().rstrip("."))
    return {**prior, "findings": "measured"}


def _without(prior: Mapping[str, Any], why: str) -> dict[str, Any]:
    reason = f"A prior study, {prior['days']} days earlier, was found, but not measured, because {why}."
    return {**prior, "state": "none", "reason": reason}


def _take_over(folder: Path, earlier: RunRow, algorithm: Algorithm, out: Path) -> bool:
    """Copy another run's findings: the prior's study may be removed before this run's results are encoded."""
    made_by = earlier.record.get("algorithm")
    files = [folder / name for name in _FINDINGS]
    if earlier.record.get("outcome") != "found" or made_by != vars(algorithm.identity):
        return False
    if not all(f.is_file() for f in files):
        return False
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, out / file.name)
    return True


def prior_folder(s: Services, run: RunRow) -> Path:
    """Where the findings of a run's prior lie."""
    return s.folder(run.run_id) / "prior"


def compared(
    s: Services, run: RunRow, algorithm: Algorithm, findings: Findings, headers: Sequence[Dataset]
) -> Compared:
    """The run's findings with what is to be said of its prior study.

    Args:
        headers: of the run's own images.

    Raises:
        FileNotFoundError: the prior's images or findings are gone.
        EncodeError: the prior's headers are not those that were found.
    """
    told: Mapping[str, Any] | None = run.record.get("prior")
    if told is None:
        return Compared(findings)
    if told["state"] != "found":
        return Compared(with_note(findings, told["reason"]))
    paths = [s.files.path(i.path) for i in s.index.instances(told["inputs"])]
    before = tuple(pydicom.dcmread(p, stop_before_pixels=True) for p in paths)
    other = load_findings(prior_folder(s, run))
    wished = algorithm.manifest.priors
    caution = [wished.caution.strip()] if wished is not None and wished.caution.strip() else []
    return compare(findings, headers, other, before, caution)


def compare(
    findings: Findings, headers: Sequence[Dataset], other: Findings, before: Sequence[Dataset], caution: Sequence[str]
) -> Compared:
    """Findings beside those of a prior study.

    Args:
        other: the prior's findings, in the images with the headers ``before``.

    Raises:
        EncodeError: a study has no date.
    """
    prior = prior_study(before, other)
    day = study_day(headers[0])
    if day is None:
        return Compared(with_note(findings, "No prior study is compared with: the images have no valid Study Date."))
    extended = with_changes(findings, prior, day, [*_differences(headers[0], before[0]), *caution])
    return Compared(extended, prior, Prior(tuple(before), other))


def _differences(header: Dataset, before: Dataset) -> list[str]:
    """What else may have made a difference."""
    values = [[str(h.get(k) or "").strip().lower() for k in _SCANNER] for h in (header, before)]
    found = []
    if values[0] != values[1]:
        found.append("The studies come from different scanners: part of the change may be due to that.")
    spacings = [[_number(h, "SliceThickness"), *_spacing(h)] for h in (header, before)]
    if any(a and b and not 0.9 < a / b < 1.1 for a, b in zip(*spacings, strict=True)):
        found.append("The voxels of the studies differ in size: part of the change may be due to that.")
    return found


def _number(header: Dataset, keyword: str) -> float:
    try:
        return float(header.get(keyword) or 0)
    except (TypeError, ValueError):
        return 0.0


def _spacing(header: Dataset) -> list[float]:
    try:
        found = [float(v) for v in header.get("PixelSpacing") or (0, 0)]
    except (TypeError, ValueError):
        return [0.0, 0.0]
    return found if len(found) == 2 else [0.0, 0.0]


def with_note(findings: Findings, note: str) -> Findings:
    """The findings with one more sentence for the report."""
    return replace(findings, notes=(*findings.notes, note))


def comparison_key(run: RunRow) -> str:
    """What tells a report of this comparison from one of another, or of none; empty: no prior was asked for."""
    told: Mapping[str, Any] | None = run.record.get("prior")
    if told is None:
        return ""
    said = {k: told.get(k) for k in ("state", "StudyInstanceUID", "inputs", "reason")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
