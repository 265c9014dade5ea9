"""A prior study for a run: found here or at an archive, fetched, and seen to be the same patient's.

The search has a time limit and holds no worker. What it fetches goes to the store like everything else, but is not
analysed by itself (``store/priors.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

import pydicom
from dbos import DBOS
from pydicom import Dataset

from dicom_node import log
from dicom_node.encode.change import study_day
from dicom_node.errors import OutOfResources, PeerError
from dicom_node.model.instance import Instance, Series
from dicom_node.model.states import RunState, StudyState
from dicom_node.peer.patient import PatientStudy, find_patient_studies
from dicom_node.receive.fetch import fetch_study
from dicom_node.receive.tags import text
from dicom_node.route.decide import decide
from dicom_node.settings import Source
from dicom_node.store.priors import PriorFetches
from dicom_node.store.runs import RunRow
from dicom_node.workflow.services import Services, enqueue_analysis, services, the_run, timed

MOST_FETCHED = 5
"""So many studies of a patient are fetched at most until one fits."""
_LOOK_AGAIN_SECONDS = 0.2
_CALLERS = ("calling_ae_title", "called_ae_title")
_UNDER_WAY = (StudyState.RECEIVING, StudyState.COMPLETE)
_IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")

_logger = log.get("workflow")


@DBOS.workflow(name="prior", max_recovery_attempts=20)
def prior_workflow(run_id: str, turn: str) -> None:
    """Look for a prior study, and have the run analysed, with one or without."""
    try:
        find_prior_step(run_id)
        go_on_step(run_id, turn)
    except Exception as e:  # noqa: BLE001 - the stage's border: whatever goes wrong becomes a state with its reason
        _logger.error("run_broke", run=run_id, error=type(e).__name__)
        give_up_step(run_id, f"{type(e).__name__}: {e}")


@DBOS.step(name="find prior")
def find_prior_step(run_id: str) -> None:
    """Keep in the run's record which study it is compared with, or why with none."""
    s = services()
    run = the_run(run_id)
    with timed(run_id, "prior"):
        found = look_for_prior(s, run)
    s.runs.set_outcome(run_id, (), {**run.record, "prior": found})
    told = {k: found[k] for k in ("state", "from", "days") if k in found}
    _logger.info("prior_looked_for", run=run_id, prior=found.get("StudyInstanceUID"), **told)


@DBOS.step(name="go on")
def go_on_step(run_id: str, turn: str) -> None:
    """The run is analysed."""
    s = services()
    algorithm = s.algorithms.get(the_run(run_id).algorithm)
    with s.engine.begin() as c:
        enqueue_analysis(s, c, run_id, algorithm, turn)


@DBOS.step(name="give up")
def give_up_step(run_id: str, reason: str) -> None:
    """The run cannot go on: keep the reason for a person."""
    services().runs.set_state(run_id, RunState.FAILED, reason)


def look_for_prior(s: Services, run: RunRow) -> dict[str, Any]:
    """Search for so long as the settings allow.

    Returns:
        ``state``: ``found`` (with ``StudyInstanceUID``, ``inputs``: SOP Instance UIDs, ``days``: how much older it is,
        ``from``: ``here`` or a source's name) or ``none`` (with ``reason``, a sentence for the report); and
        ``passed_over``: which studies were not used, and why.
    """
    limit = s.settings.priors.time_limit_seconds
    search = _Search(s, run)
    thread = threading.Thread(target=search.work, daemon=True, name=f"prior of {run.run_id}")
    thread.start()
    thread.join(limit)
    search.over.set()
    if search.outcome is None:
        # What is being fetched goes on coming: it is here for the next study.
        _logger.warning("prior_late", run=run.run_id, seconds=limit)
        late = f"No prior study is compared with: the time limit of {limit:g} s passed before one was here."
        return {"state": "none", "reason": late, "passed_over": list(search.passed_over)}
    return {**search.outcome, "passed_over": list(search.passed_over)}


@dataclass(frozen=True)
class Patient:
    """Who is imaged; never logged."""

    PatientID: str
    IssuerOfPatientID: str
    PatientBirthDate: str
    PatientSex: str

    def differs(self, other: Patient) -> str:
        """Why this cannot be taken for the same patient, without a value; empty where it can."""
        if self.PatientID != other.PatientID:
            return "its Patient ID is not the same"
        if self.IssuerOfPatientID != other.IssuerOfPatientID:
            return "the issuer of its Patient ID is not the same"
        return self.differs_in_birth_or_sex(other.PatientBirthDate, other.PatientSex)

    def differs_in_birth_or_sex(self, birth_date: str, sex: str) -> str:
        """As ``differs``, of what is compared besides the ID. A birth date must be there."""
        if not birth_date or not self.PatientBirthDate:
            return "a birth date is missing, so the patient is not surely the same"
        if birth_date != self.PatientBirthDate:
            return "its birth date is not the same"
        return "its sex is not the same" if sex and self.PatientSex and sex != self.PatientSex else ""


def patient_of(header: Dataset) -> Patient:
    """Whose image it is."""
    return Patient(*(text(header, k) for k in _IDENTITY[:4]))


def suited_series(s: Services, run: RunRow, study_uid: str) -> list[Series]:
    """Series of a study that the rules send to the run's algorithm, whoever sent them: the best one, or for a cine all.

    A prior comes from an archive or came long ago: the AE titles that a rule asks for are not looked at.
    """
    algorithm = s.algorithms[run.algorithm]
    series = s.index.series(study_uid)
    rules = [
        replace(r, series="best", when=tuple(c for c in r.when if c.keyword not in _CALLERS))
        for r in s.rules
        if r.algorithm == run.algorithm
    ]
    wanted = {r.series_uid for r in decide(series, rules, {run.algorithm: algorithm.accepts}).routes if r.wanted}
    return [x for x in series if x.SeriesInstanceUID in wanted]


@dataclass
class _Search:
    """One search.

    Attributes:
        over: set when nobody waits for the outcome any more.
        outcome: None until there is one.
        unasked: sources that could not be asked, or did not give what they have.
    """

    s: Services
    run: RunRow
    over: threading.Event = field(default_factory=threading.Event)
    outcome: dict[str, Any] | None = None
    passed_over: dict[str, None] = field(default_factory=dict)
    mistaken: set[str] = field(default_factory=set)
    unasked: dict[str, None] = field(default_factory=dict)

    def work(self) -> None:
        """Find one, or say why there is none."""
        try:
            self.outcome = self._find()
        except Exception as e:  # noqa: BLE001 - the thread's border: the run goes on without a prior
            _logger.error("prior_search_broke", run=self.run.run_id, error=type(e).__name__)
            self.outcome = {"state": "none", "reason": "The search for a prior study failed: see the node's log."}

    def _find(self) -> dict[str, Any]:
        first = self.s.index.instances(self.run.inputs)[0]
        header = self._header(first)
        self.patient, day = patient_of(header), study_day(header)
        if not self.patient.PatientID or day is None:
            lacking = "Patient ID" if day is not None else "valid Study Date"
            return {"state": "none", "reason": f"No prior study was looked for: the images have no {lacking}."}
        self.day = day
        wished = self.s.algorithms[self.run.algorithm].manifest.priors
        least = max(self.s.settings.priors.minimum_days, wished.minimum_days if wished is not None else 1)
        self.until = day - timedelta(days=least)
        self.fetches = PriorFetches(self.s.engine, self.s.index.clock)
        for uid in self._here(first.patient_key):
            if found := self._use(uid, "here"):
                return found
        return self._fetch_one() or self._none()

    def _here(self, patient_key: str) -> list[str]:
        """Earlier studies that are here, the latest first."""
        dated = []
        for uid in self.s.index.studies_of(patient_key):
            if uid == self.run.study_uid:
                continue
            header = self._header(next(i for x in self.s.index.series(uid) for i in x.instances))
            day = study_day(header)
            if day is None or day > self.until:
                self._pass_over(uid, "it is not known to be old enough")
            else:
                dated.append((day, text(header, "StudyTime"), uid))
        return [uid for *_, uid in sorted(dated, reverse=True)]

    def _fetch_one(self) -> dict[str, Any] | None:
        studies: dict[str, tuple[PatientStudy, Source]] = {}
        for source in (x for x in self.s.settings.sources if x.priors):
            for study in self._ask(source):
                studies.setdefault(study.StudyInstanceUID, (study, source))
        fetched = 0
        for study, source in sorted(studies.values(), key=lambda x: (x[0].StudyDate, x[0].StudyTime), reverse=True):
            if self.over.is_set() or fetched == MOST_FETCHED:
                break
            if self._may_suit(study):
                fetched += 1
                if self._fetch(source, study) and (found := self._use(study.StudyInstanceUID, source.name)):
                    return found
        return None

    def _ask(self, source: Source) -> Sequence[PatientStudy]:
        title = self.s.settings.receive.ae_title
        try:
            return find_patient_studies(source, title, self.patient.PatientID, self.until)
        except PeerError as e:
            self._failed(source, e)
            return ()

    def _may_suit(self, study: PatientStudy) -> bool:
        """As far as the archive tells, before anything is fetched."""
        uid = study.StudyInstanceUID
        if uid == self.run.study_uid:
            return False
        accepted = self.s.algorithms[self.run.algorithm].manifest.accepts.Modality
        told = [m for m in study.modalities if m]
        if accepted and told and not set(told) & set(accepted):
            self._pass_over(uid, "it has no image of a modality that the algorithm takes")
            return False
        if study.PatientBirthDate:
            differs = self.patient.differs_in_birth_or_sex(study.PatientBirthDate, study.PatientSex)
            if differs:
                self._pass_over(uid, differs, mistaken=True)
            return not differs
        return True

    def _fetch(self, source: Source, study: PatientStudy) -> bool:
        """Whether all of the study is here."""
        uid, intake = study.StudyInstanceUID, self.s.intake
        if intake is None or not self._settled(uid):
            return False
        self.fetches.begin(uid)
        whole = False
        try:
            try:
                fetched = fetch_study(source, self.s.settings.receive.ae_title, uid, intake)
            finally:
                intake.rows.flush()  # what came has its row, and its time, before the fetch is said to be over
            came = fetched.kept + fetched.refused
            whole = study.instances is None or came >= study.instances
            if not whole:
                self._pass_over(uid, f"{source.name} gave {came} of its {study.instances} instances")
                self.unasked[source.name] = None
        except (PeerError, OutOfResources) as e:
            self._failed(source, e)
        finally:
            self.fetches.end(uid, whole=whole)
        return whole

    def _use(self, uid: str, where: str) -> dict[str, Any] | None:
        """What is told of this study if it is to be the prior."""
        if not self._settled(uid) or self.fetches.is_partial(uid):
            self._pass_over(uid, "it is not here as a whole")
            return None
        series = suited_series(self.s, self.run, uid)
        if not series:
            self._pass_over(uid, f"the rules send no series of it to {self.run.algorithm}")
            return None
        headers = [self._header(x.instances[0]) for x in series]
        for header in headers:
            if differs := self.patient.differs(patient_of(header)):
                self._pass_over(uid, differs, mistaken=True)
                return None
        days = [study_day(h) for h in headers]
        if not all(d is not None and d <= self.until for d in days):
            self._pass_over(uid, "it is not known to be old enough")
            return None
        then: date = max(d for d in days if d is not None)
        return {
            "state": "found",
            "StudyInstanceUID": uid,
            "inputs": [i.SOPInstanceUID for x in series for i in x.instances],
            "days": (self.day - then).days,
            "from": where,
        }

    def _settled(self, uid: str) -> bool:
        """Wait until nothing is under way with a study that is being received; False if that takes too long."""
        while self._is_coming(uid):
            if self.over.wait(_LOOK_AGAIN_SECONDS):
                return False
        return True

    def _is_coming(self, uid: str) -> bool:
        row = self.s.index.study(uid)
        return row is not None and row.state in _UNDER_WAY and not self.fetches.covers(row)

    def _none(self) -> dict[str, Any]:
        sentences = ["No prior study was found."]
        if self.mistaken:
            several = "study was" if len(self.mistaken) == 1 else "studies were"
            sentences.append(
                f"{len(self.mistaken)} earlier {several} not used: Patient ID, issuer, birth date or sex differ."
            )
        if self.unasked:
            sentences.append(f"There may be one all the same: no complete answer came from {', '.join(self.unasked)}.")
        return {"state": "none", "reason": " ".join(sentences)}

    def _failed(self, source: Source, error: Exception) -> None:
        self.unasked[source.name] = None
        self.passed_over[f"{source.name}: {error}"] = None
        _logger.warning("prior_not_fetched", run=self.run.run_id, source=source.name, reason=str(error))

    def _pass_over(self, uid: str, why: str, *, mistaken: bool = False) -> None:
        self.passed_over[f"{uid}: {why}"] = None
        if mistaken:
            self.mistaken.add(uid)

    def _header(self, instance: Instance) -> Dataset:
        return pydicom.dcmread(self.s.files.path(instance.path), stop_before_pixels=True, specific_tags=list(_IDENTITY))
