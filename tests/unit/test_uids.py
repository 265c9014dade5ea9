"""Derived UIDs."""

from __future__ import annotations

from dicom_node.encode.uids import ResultUids, derive_uid
from dicom_node.model.instance import valid_uid


def test_the_same_parts_give_the_same_uid_and_it_is_valid() -> None:
    assert derive_uid("a", "b") == derive_uid("a", "b")
    assert valid_uid(derive_uid("a", "b"))
    assert derive_uid("a", "b").startswith("2.25.")


def test_parts_do_not_run_into_one_another() -> None:
    assert derive_uid("ab", "c") != derive_uid("a", "bc")


def test_each_role_has_its_own_uid() -> None:
    uids = ResultUids("key")
    drawn = [
        uids.series("seg"),
        uids.series("sr"),
        uids.instance("seg"),
        uids.instance("sr"),
        uids.instance("sr", "other content"),
        uids.dimension_organization(),
        uids.segment(1),
        uids.segment(2),
        uids.measurement("1"),
    ]
    assert len(set(drawn)) == len(drawn)
    assert uids.segment(1) != ResultUids("another key").segment(1)
