"""The routing rules: read from YAML, checked whole, evaluated without running anything from the file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicom_node.errors import ConfigurationError
from dicom_node.model.body_part import BODY_PARTS
from dicom_node.model.routing import CODE_SEQUENCES, ROUTING_KEYWORDS
from dicom_node.route.series_kind import SERIES_KINDS

INFERRED: Final = ("body_part", "series_kind", "calling_ae_title", "called_ae_title", "images")
"""What a rule may ask for besides DICOM keywords. ``images``: how many slices the series holds."""
CONDITION_KEYWORDS: Final = (*INFERRED, *(k for k in ROUTING_KEYWORDS if k not in CODE_SEQUENCES))
_CLOSED: Final = {"body_part": BODY_PARTS, "series_kind": SERIES_KINDS}

Scalar = Annotated[str | int | float, Field(union_mode="left_to_right")]


class Asked(BaseModel):
    """The tests of one keyword; all that are given must hold.

    ``matches`` and ``not_matches`` are globs (``*`` any characters, ``?`` one), case-insensitive, one or several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    any_of: tuple[Scalar, ...] = ()
    matches: tuple[str, ...] = ()
    not_matches: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Condition:
    """One keyword of ``when``."""

    keyword: str
    test: Asked

    def holds(self, values: Sequence[Any]) -> bool:
        """Whether the values of the keyword pass; of several values (Image Type) one must, and none may be excluded.

        Args:
            values: empty when the series says nothing: then only ``not_matches`` holds.
        """
        t = self.test
        texts = [str(v).strip() for v in values]
        if any(glob(pattern, text) for pattern in t.not_matches for text in texts):
            return False
        if t.any_of and not any(_equal(wanted, v) for wanted in t.any_of for v in values):
            return False
        if t.matches and not any(glob(pattern, text) for pattern in t.matches for text in texts):
            return False
        if t.at_least is None and t.at_most is None:
            return True
        low = float("-inf") if t.at_least is None else t.at_least
        high = float("inf") if t.at_most is None else t.at_most
        return any(low <= n <= high for n in map(_number, values) if n is not None)

    def __str__(self) -> str:
        t = self.test
        parts = [" or ".join(map(str, t.any_of))] if t.any_of else []
        parts += [f"matches {' or '.join(t.matches)}"] if t.matches else []
        parts += [f"does not match {' or '.join(t.not_matches)}"] if t.not_matches else []
        parts += [f"at least {t.at_least:g}"] if t.at_least is not None else []
        parts += [f"at most {t.at_most:g}"] if t.at_most is not None else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: unique in the file.
        algorithm: the id of the algorithm that runs.
        when: all must hold for a series.
        deliver_to: names of destinations.
        series: ``best``: the one series of a study that suits best; ``all``: each that suits.
    """

    name: str
    algorithm: str
    when: tuple[Condition, ...]
    deliver_to: tuple[str, ...]
    series: Literal["best", "all"] = "best"


class _RuleEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=128)
    algorithm: str
    when: dict[str, Any]
    deliver_to: list[str] = Field(min_length=1)
    series: Literal["best", "all"] = "best"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    rules: list[_RuleEntry]


def load_rules(path: Path, algorithms: Collection[str], destinations: Collection[str]) -> tuple[Rule, ...]:
    """Read the rules.

    Args:
        algorithms: the ids that a rule may name.
        destinations: the names that a rule may deliver to.

    Raises:
        ConfigurationError: every mistake on a line of its own, with file, rule, key and what is accepted.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigurationError(
            f"{path}: cannot be read: {e.strerror}; give the node's settings with --config, or set routes_file"
        ) from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"{path}: is not YAML: {e}") from e
    try:
        entries = _File.model_validate(loaded).rules
    except ValidationError as e:
        raise ConfigurationError("\n".join(_explain(path, loaded, e))) from e
    problems: list[str] = []
    rules = []
    for position, entry in enumerate(entries):
        where = f"{path}: rule {entry.name!r}"
        if entry.name in [other.name for other in entries[:position]]:
            problems.append(f"{where}: name: is used twice")
        problems += _not_among(f"{where}: algorithm", [entry.algorithm], algorithms)
        problems += _not_among(f"{where}: deliver_to", entry.deliver_to, destinations)
        when = []
        for keyword, asked in entry.when.items():
            condition, wrong = _condition(f"{where}: when.{keyword}", keyword, asked)
            problems += wrong
            when += [condition] if condition else []
        rules.append(Rule(entry.name, entry.algorithm, tuple(when), tuple(entry.deliver_to), entry.series))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return tuple(rules)


def glob(pattern: str, text: str) -> bool:
    """Whether the whole text matches the pattern, case-insensitively; takes at most len(pattern) * len(text) steps."""
    pattern, text = pattern.casefold(), text.casefold()
    p = t = 0
    star, resume = -1, 0
    while t < len(text):
        if p < len(pattern) and pattern[p] == "*":
            star, resume = p, t
            p += 1
        elif p < len(pattern) and pattern[p] in ("?", text[t]):
            p, t = p + 1, t + 1
        elif star >= 0:
            resume += 1
            p, t = star + 1, resume
        else:
            return False
    return all(c == "*" for c in pattern[p:])


def _condition(where: str, keyword: str, asked: Any) -> tuple[Condition | None, list[str]]:
    if keyword not in CONDITION_KEYWORDS:
        close = get_close_matches(keyword, CONDITION_KEYWORDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return None, [f"{where}: unknown keyword; {hint}accepted: {', '.join(CONDITION_KEYWORDS)}"]
    if isinstance(asked, dict):
        given = {
            k: [v] if k in ("any_of", "matches", "not_matches") and not isinstance(v, list) else v
            for k, v in asked.items()
        }
    elif asked is None:
        given = {}
    else:
        given = {"any_of": asked if isinstance(asked, list) else [asked]}
    accepted = "accepted: a value, a list of values, or any_of, matches, not_matches, at_least, at_most"
    if not given or any(v in ([], None) for v in given.values()):
        return None, [f"{where}: is empty; {accepted}"]
    if any(
        isinstance(v, bool) for values in given.values() for v in (values if isinstance(values, list) else [values])
    ):
        return None, [f"{where}: true and false are no DICOM values (put yes, no, on, off in quotes); {accepted}"]
    try:
        # Strict but for the sequences, which YAML gives as lists.
        test = Asked.model_validate({k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    except ValidationError as e:
        return None, [f"{where}.{'.'.join(map(str, x['loc']))}: {x['msg']}; {accepted}" for x in e.errors()]
    wrong = _not_among(where, [str(v) for v in test.any_of], _CLOSED[keyword]) if keyword in _CLOSED else []
    return Condition(keyword, test), wrong


def _not_among(where: str, given: Sequence[str], accepted: Collection[str]) -> list[str]:
    listed = ", ".join(sorted(accepted)) or "none is configured"
    return [f"{where}: {value!r} is unknown; accepted: {listed}" for value in given if value not in accepted]


def _explain(path: Path, loaded: Any, error: ValidationError) -> list[str]:
    lines = []
    for e in error.errors():
        where, loc = f"{path}", list(e["loc"])
        if len(loc) > 1 and loc[0] == "rules":
            entry = loaded["rules"][loc[1]]
            name = entry.get("name") if isinstance(entry, dict) else None
            where += f": rule {name!r}" if name else f": rule number {int(loc[1]) + 1}"
            loc = loc[2:]
        key = ".".join(map(str, loc)) or "(whole)"
        accepted = "" if e["type"] != "extra_forbidden" else f"; accepted: {', '.join(_RuleEntry.model_fields)}"
        if loaded is None or not isinstance(loaded, dict):
            accepted = "; accepted: a mapping with the key rules"
        lines.append(f"{where}: {key}: {e['msg']}{accepted}")
    return lines


def _equal(wanted: str | int | float, value: Any) -> bool:
    if isinstance(wanted, str):
        return wanted.strip().casefold() == str(value).strip().casefold()
    number = _number(value)
    return number is not None and abs(number - wanted) <= 1e-6 * max(1.0, abs(wanted))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
