"""How results look to the site: what is accepted, and what the messages say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dicom_node.app import check_results_settings
from dicom_node.errors import ConfigurationError
from dicom_node.run.registry import load_registry
from dicom_node.settings import ResultSettings, Settings, load_settings


def loaded(folder: Path, **results: object) -> Settings:
    (folder / "node.yaml").write_text(yaml.safe_dump({"results": results}))
    return load_settings(folder / "node.yaml")


def test_numbers_follow_from_the_base_or_are_given() -> None:
    results = ResultSettings(series_number_base=500, series_numbers={"b": 7001})
    assert [results.first_series_number(name, ("c", "a", "b")) for name in "abc"] == [500, 7001, 520]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("AI {name} {result}", r"accepted: text with \{algorithm\}, \{version\} and \{result\}"),
        ("AI {algorithm", r"expected '\}' before end of string; accepted: text with"),
        ("{algorithm:>40} {result}", "accepted: text with"),
        ("AI {algorithm}", r"without \{result\} all results of a run would be called the same"),
    ],
)
def test_a_description_that_cannot_be_filled_in_is_refused(tmp_path: Path, template: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"node\.yaml: results\.series_description: .*{said}"):
        loaded(tmp_path, series_description=template)


@pytest.mark.parametrize("number", [0, 2**31])
def test_a_series_number_is_an_integer_string(tmp_path: Path, number: int) -> None:
    with pytest.raises(ConfigurationError, match=r"results\.series_numbers\.hippocampus: .*than or equal to"):
        loaded(tmp_path, series_numbers={"hippocampus": number})


def test_two_algorithms_with_the_same_numbers_are_refused(tmp_path: Path) -> None:
    installed = load_registry(None)
    settings = loaded(tmp_path, series_numbers={"hippocampus": 7000, "left_ventricle": 7004})
    said = "hippocampus begins at 7000 and left_ventricle at 7004, but a run's results take 5 numbers"
    with pytest.raises(ConfigurationError, match=said):
        check_results_settings(settings, installed)
    check_results_settings(loaded(tmp_path, series_numbers={"hippocampus": 7000, "left_ventricle": 7005}), installed)
    check_results_settings(Settings(), installed)


def test_another_date_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"results\.series_date: .*'creation' or 'source'"):
        loaded(tmp_path, series_date="study")


def test_another_encoding_is_refused_with_those_there_are(tmp_path: Path) -> None:
    to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "seg_encoding": "j2k"}
    (tmp_path / "node.yaml").write_text(yaml.safe_dump({"destinations": [to]}))
    said = r"destinations\.0\.seg_encoding: .*'binary', 'labelmap', 'labelmap_rle' or 'labelmap_jls' \(got 'j2k'\)"
    with pytest.raises(ConfigurationError, match=said):
        load_settings(tmp_path / "node.yaml")
