"""Prior studies on the whole way of a run: what is found here, what is not, and what the report then says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.errors import EncodeError
from dicom_node.model.states import RunState, StudyState
from dicom_node.store.priors import PriorFetches
from dicom_node.workflow import analyse, comparison, priors
from dicom_node.workflow.study import ONLY_A_PRIOR
from tests.prior_site import BEFORE, CHANGE, NOW, YEARLY, PriorSite, head, measured, prior_site, study_of, until
from tests.web_server import Answer, Request, web_server


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PriorSite]:
    with prior_site(tmp_path) as s:
        yield s


def two_runs(site: PriorSite, first: list[Path], second: list[Path]) -> Any:
    """Send one study after the other; the second one's run."""
    site.send(first)
    site.run()
    site.send(second)
    return site.run(number=2)


def test_no_prior_is_said(site: PriorSite) -> None:
    site.send(head(NOW, "now"))
    run = site.run()

    assert run.record["prior"]["state"] == "none"
    assert "No prior study was found." in site.words(run)
    assert CHANGE not in measured(run)
    assert "PertinentOtherEvidenceSequence" not in site.report(run)


def test_a_study_that_is_here_is_compared_with_and_its_run_is_taken_over(site: PriorSite) -> None:
    run = two_runs(site, head(BEFORE, "before"), head(NOW, "now", seed=1))
    (earlier,) = [r for r in site.s.runs.all() if r.run_id != run.run_id]
    value, change = measured(run), measured(run)["Bright volume"] - measured(earlier)["Bright volume"]

    assert change != 0
    assert value[CHANGE] == pytest.approx(change)
    assert value[YEARLY] == pytest.approx(100 * change / measured(earlier)["Bright volume"] / (731 / 365.25))
    assert value["Interval since the prior study"] == 731
    told = run.record["prior"]
    assert (told["state"], told["from"], told["findings"]) == ("found", "here", earlier.run_id)
    (study,) = site.report(run).PertinentOtherEvidenceSequence
    assert study.StudyInstanceUID == earlier.study_uid
    assert "Two scans of the same head differ." in site.words(run)


def test_findings_of_another_version_are_not_taken_over(site: PriorSite) -> None:
    site.send(head(BEFORE, "before"))
    earlier = site.run()
    other = {**earlier.record, "algorithm": {**earlier.record["algorithm"], "version": "0.9"}}
    site.s.runs.set_outcome(earlier.run_id, earlier.measurements, other)
    site.send(head(NOW, "now"))
    run = site.run(number=2)

    assert run.record["prior"]["findings"] == "measured"
    assert CHANGE in measured(run)


def test_the_latest_that_is_old_enough_is_the_prior(site: PriorSite) -> None:
    for number, (day, study) in enumerate([("20200101", "old"), (BEFORE, "before"), ("20260101", "last week")], 1):
        site.send(head(day, study))
        site.run(number=number)
    site.send(head(NOW, "now"))
    run = site.run(number=4)

    assert run.record["prior"]["days"] == 731
    assert any("not known to be old enough" in p for p in run.record["prior"]["passed_over"])


def test_a_later_study_is_no_prior(site: PriorSite) -> None:
    run = two_runs(site, head(NOW, "now"), head(BEFORE, "before"))

    assert run.record["prior"]["state"] == "none"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"PatientBirthDate": "19610101"}, "its birth date is not the same"),
        ({"PatientBirthDate": ""}, "a birth date is missing"),
        ({"PatientSex": "F"}, "its sex is not the same"),
    ],
)
def test_a_study_that_is_not_surely_the_same_patients_is_not_used(
    site: PriorSite, header: dict[str, str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = two_runs(site, head(BEFORE, "before", **header), head(NOW, "now"))

    told = run.record["prior"]
    assert told["state"] == "none"
    assert any(words in p for p in told["passed_over"])
    assert any("1 earlier study was not used" in w for w in site.words(run))
    said = "".join(capfd.readouterr()) + str(told)
    assert not any(value in said for value in ("PHANTOM-1", "19610101", "19600101"))


def test_another_issuer_of_the_same_id_is_another_patient(site: PriorSite) -> None:
    before = head(BEFORE, "before", IssuerOfPatientID="ELSEWHERE")
    run = two_runs(site, before, head(NOW, "now"))
    assert run.record["prior"]["state"] == "none"


def test_a_prior_that_cannot_be_analysed_is_told(site: PriorSite) -> None:
    few = head(BEFORE, "before")[:4]
    site.send(few)
    site.run(RunState.NOT_ANALYSED)
    site.send(head(NOW, "now"))
    run = site.run(number=2)

    sentence = "was found, but not measured, because there are fewer than five slices."
    assert any(sentence in w for w in site.words(run))
    assert CHANGE not in measured(run)


def test_a_node_that_does_not_look_for_priors_says_nothing(tmp_path: Path) -> None:
    with prior_site(tmp_path / "site", priors={"enabled": False}) as site:
        run = two_runs(site, head(BEFORE, "before"), head(NOW, "now"))
        assert "prior" not in run.record
        assert not any("prior" in w for w in site.words(run))


def test_a_prior_that_is_still_coming_is_waited_for(site: PriorSite) -> None:
    before, now = head(BEFORE, "before"), head(NOW, "now")
    site.send(now)
    site.send(before)
    until(lambda: [r.state for r in site.s.runs.all()] == [RunState.DONE] * 2)
    (run,) = site.s.runs.all(study_of(now))
    assert run.record["prior"]["state"] == "found"


def test_a_source_that_is_slow_is_not_waited_for(tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(_: Request) -> Answer:
        asked.set()
        go_on.wait(60)
        return Answer(503)

    with web_server(slow) as server:
        source = {"name": "slow", "kind": "dicomweb", "dicomweb_url": server.url, "timeout_seconds": 60}
        with prior_site(tmp_path / "site", [source], priors={"time_limit_seconds": 1}) as site:
            try:
                site.send(head(NOW, "now"))
                run = site.run()
                assert asked.is_set()
                assert "No prior study is compared with: the time limit of 1 s passed before one was here." in (
                    site.words(run)
                )
            finally:
                go_on.set()


def test_a_source_that_is_down_is_told(tmp_path: Path) -> None:
    source = {"name": "gone", "kind": "dicomweb", "dicomweb_url": "http://127.0.0.1:9"}
    with prior_site(tmp_path / "site", [source]) as site:
        site.send(head(NOW, "now"))
        run = site.run()
        assert (
            "No prior study was found. There may be one all the same: no complete answer came from gone."
            in site.words(run)
        )
        assert any("no connection" in p for p in run.record["prior"]["passed_over"])


def test_a_search_that_breaks_does_not_stop_the_run(site: PriorSite, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(priors, "suited_series", broken)
    run = two_runs(site, head(BEFORE, "before"), head(NOW, "now"))
    assert "The search for a prior study failed: see the node's log." in site.words(run)


def test_what_was_being_fetched_when_the_node_was_killed_is_no_prior_until_it_is_whole(
    site: PriorSite,
) -> None:
    fetches = PriorFetches(site.s.engine, site.s.index.clock)
    before = head(BEFORE, "before")
    uid = study_of(before)
    fetches.begin(uid)
    site.send(before[:-3])
    site.node.intake.rows.flush()
    (row,) = site.s.index.studies()
    assert fetches.covers(row)
    fetches.end_all()
    site.send(head(NOW, "now"))
    run = site.run()

    assert run.record["prior"]["state"] == "none"
    assert any("not here as a whole" in p for p in run.record["prior"]["passed_over"])
    until(lambda: site.s.index.study(uid).state == StudyState.UNWANTED)
    assert site.s.index.study(uid).reason == ONLY_A_PRIOR
    # images that come later are nobody's prior: the study is then routed as any other
    site.send(before[-3:])
    site.run(number=2)


def test_a_run_that_is_repeated_looks_for_its_prior_again(site: PriorSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyse, "check_results", lambda *_, **__: ["sr.dcm: a change is wrong"])
    site.send(head(NOW, "now"))
    run = site.run(RunState.SET_ASIDE)
    assert run.record["prior"]["state"] == "none"
    monkeypatch.undo()
    site.send(head(BEFORE, "before"))
    until(lambda: [r.state for r in site.s.runs.all(study_of(head(BEFORE, "before")))] == [RunState.DONE])
    analyse.retry(site.s, run.run_id)
    until(lambda: site.s.runs.get(run.run_id).state == RunState.DONE)
    again = site.s.runs.get(run.run_id)
    assert again is not None
    assert again.record["prior"]["state"] == "found"
    assert CHANGE in measured(again)


def test_a_prior_that_cannot_be_compared_with_does_not_stop_the_run(
    site: PriorSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise EncodeError("the prior study has no date")

    monkeypatch.setattr(comparison, "prior_study", broken)
    run = two_runs(site, head(BEFORE, "before"), head(NOW, "now"))
    assert "A prior study was found, but could not be compared with." in site.words(run)
    assert CHANGE not in measured(run)
