"""Whether a study is whole: evidence first, then a quiet time. Evidence may also say that it is not, and is believed
for so long as the settings say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dicom_node.model.completeness import Announced, By, Count, Verdict
from dicom_node.settings import CompleteSettings

SHORT_QUIET_SECONDS: Final = 0.3
"""So long nothing must have come before an archive is asked for its count: an association has likely ended."""
_AGAIN_SECONDS: Final = 5.0
"""So often is it asked while its count is another than ours, or after a question that failed; seldomer, up to"""
_SELDOM_SECONDS: Final = 30.0
"""this, the longer its count stands still."""
_SOONEST_SECONDS: Final = 1.0
"""No study is asked about more often."""


def decide(
    here: Mapping[str, int],
    last_arrival: float,
    announced: Announced | None,
    count: Count | None,
    settings: CompleteSettings,
    now: float,
) -> Verdict:
    """The verdict on a study that receives.

    Args:
        here: instances that are here by Series Instance UID, the node's own results not counted.
        last_arrival: when the last of them came; seconds since the epoch, as ``now``.
        announced: what MPPS and IAN say of it; None: nothing.
        count: what an archive says of it; None: there is none to be asked.
    """
    quiet = now - last_arrival
    if announced is not None and (words := _all_here(announced)):
        return Verdict(announced.by, words)
    against = [] if announced is None else _against(here, announced, settings)
    asked = ""
    if count is not None:
        holds, asked = _weigh(here, last_arrival, count, settings, now)
        if holds:
            against.append(asked)
        elif not against and not asked:
            total = sum(here.values())
            still = f"its count stood still for {settings.settle_seconds:g} s"
            return Verdict(By.COUNT, f"{count.source} has as many as are here, {_many(total, len(here))}, and {still}")
    limit = settings.quiet_seconds + (settings.hold_seconds if against else 0)
    if quiet >= limit:
        remarks = against or [r for r in (_remark(announced), asked) if r]
        vain = "waited in vain: " if against else ""
        return Verdict(By.QUIET, "; ".join([f"nothing new for {limit:g} s", *(f"{vain}{r}" for r in remarks)]))
    if against:
        return Verdict(None, f"{'; '.join(against)}; waited for until nothing has come for {limit:g} s")
    return Verdict(None, f"complete when nothing has come for {limit:g} s")


def next_question(here: Mapping[str, int], last_arrival: float, count: Count, settings: CompleteSettings) -> float:
    """When the archive is to be asked for its count; seconds since the epoch."""
    due = _due(here, last_arrival, count, settings)
    if count.failed is not None:
        if count.refused and count.failed >= last_arrival:
            return float("inf")
        due = max(due, count.failed + _AGAIN_SECONDS)
    return due


def _due(here: Mapping[str, int], last_arrival: float, count: Count, settings: CompleteSettings) -> float:
    """When an answer is wanted, whatever failed meanwhile."""
    first = last_arrival + SHORT_QUIET_SECONDS
    if count.asked is None:
        return first
    if count.asked < last_arrival:
        return max(first, count.asked + _SOONEST_SECONDS)
    if count.since is not None and not _difference(here, count, settings):
        settled = count.since + settings.settle_seconds
        if count.asked < settled:
            return max(settled, count.asked + _SOONEST_SECONDS)
    stood = 0.0 if count.since is None else count.asked - count.since
    often = max(_SOONEST_SECONDS, min(_AGAIN_SECONDS, settings.settle_seconds))
    return count.asked + max(often, min(_SELDOM_SECONDS, stood / 4))


def _all_here(a: Announced) -> str:
    """Why the study is whole by what was announced; empty if it is not."""
    if a.in_progress or not a.completed or not a.listed or a.missing or a.unlisted:
        return ""
    images = _many(sum(a.listed.values()), len(a.listed), "image")
    who = ", ".join(a.callers)
    if a.by == By.MPPS:
        return f"{who} reported the procedure step as ended, and all {images} that it lists are here"
    return f"{who} announced {images} as available, and all are here"


def _against(here: Mapping[str, int], a: Announced, settings: CompleteSettings) -> list[str]:
    """What was announced that says the study is not whole."""
    who = ", ".join(a.callers)
    found = []
    if a.in_progress:
        found.append(f"MPPS: {who} has a procedure step in progress")
    missing = _expected(a.missing, here, settings)
    if missing:
        total = sum(missing.values())
        images = _many(total, len(missing), "image")
        found.append(f"{a.by}: of what {who} lists, {images} {'has' if total == 1 else 'have'} not come")
    return found


def _remark(a: Announced | None) -> str:
    """Why what was announced did not decide."""
    if a is None:
        return ""
    who = ", ".join(a.callers)
    if not a.listed:
        return f"{a.by}: {who} listed no images"
    if a.unlisted:
        return f"{a.by}: {a.unlisted} of the images are in no list of {who}"
    if a.missing:
        return f"{a.by}: of {len(a.missing)} series that {who} lists nothing has come"
    return f"MPPS: {who} discontinued the procedure step"


def _weigh(
    here: Mapping[str, int], last_arrival: float, count: Count, settings: CompleteSettings, now: float
) -> tuple[bool, str]:
    """Whether the count holds the study back, and what it says; (False, "") if it makes it whole."""
    wanted = _due(here, last_arrival, count, settings)
    refused = count.refused and count.failed is not None and count.failed >= last_arrival
    if refused or now >= wanted + settings.answer_seconds:
        why = f": {count.error}" if count.error else ""
        return False, f"{count.source} did not give its count{why}"
    if count.asked is None or count.asked < last_arrival or count.since is None:
        return True, f"{count.source} is asked for its count"
    if not count.series:
        # It may file the study under another UID, or be the wrong archive: that is no evidence.
        return False, f"{count.source} does not know the study"
    if difference := _difference(here, count, settings):
        return True, difference
    if count.asked - count.since < settings.settle_seconds:
        return True, f"{count.source} has as many as are here; whether its count stands still is not yet known"
    there = [uid for uid in count.series if uid not in here]
    if there:
        return False, f"of {len(there)} series that {count.source} has nothing has come"
    return False, ""


def _difference(here: Mapping[str, int], count: Count, settings: CompleteSettings) -> str:
    """How the count differs from what is here; empty if it does not."""
    counted = {uid: n - count.left_out.get(uid, 0) for uid, n in count.series.items()}
    there = _expected(counted, here, settings)
    there |= {uid: n for uid, n in count.others.items() if uid in here}
    if dict(there) == dict(here):
        return ""
    theirs, ours = _many(sum(there.values()), len(there)), _many(sum(here.values()), len(here))
    return f"{count.source} has {theirs}, here are {ours}"


def _expected(series: Mapping[str, int], here: Mapping[str, int], settings: CompleteSettings) -> dict[str, int]:
    """Those series that the site sends: all, or those that have begun to come."""
    return {uid: n for uid, n in series.items() if settings.expect == "study" or uid in here}


def _many(instances: int, series: int, what: str = "object") -> str:
    return f"{instances} {what}{'' if instances == 1 else 's'} in {series} series"
