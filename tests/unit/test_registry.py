from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dicom_node.errors import ConfigurationError
from dicom_node.run.registry import DEFAULT_FOLDER, load_registry

GOOD = {
    "id": "good",
    "name": "Good",
    "version": "1.0.0",
    "description": "A test.",
    "input": "volume",
    "procedure": {"value": "113091000", "scheme": "SCT", "meaning": "MRI"},
    "time_limit_s": 10,
}


def write(folder: Path, **changes: object) -> Path:
    (folder / "good").mkdir(exist_ok=True)
    values = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    (folder / "good" / "algorithm.yaml").write_text(yaml.safe_dump(values))
    return folder


def test_the_algorithms_that_come_with_the_node_load():
    found = load_registry()
    assert "threshold_demo" in found
    assert all(a.folder.parent == DEFAULT_FOLDER for a in found.values())


def test_identity_changes_with_version_and_weights(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "w.bin").write_bytes(b"1")
    identities = set()
    for changes in (
        {},
        {"version": "1.0.1"},
        {"weights": {"net": {"file": "w.bin", "sha256": "0" * 64}}},
        {"weights": {"net": {"file": "w.bin", "sha256": "1" * 64}}},
    ):
        identities.add(load_registry(write(tmp_path, **changes))["good"].identity)
    assert len({i.device_uid for i in identities}) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "other"}, "must be the folder's name, 'good', not 'other'"),
        ({"version": None}, "version: Field required"),
        ({"input": "sound"}, "input: Input should be 'volume'"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"time_limit_s": 0}, "time_limit_s: Input should be greater than 0"),
        (
            {"weights": {"net": {"file": "gone.bin", "sha256": "0" * 64}}},
            "weights.net.file: gone.bin is not in the folder",
        ),
        ({"weights": {"net": {"file": "x", "sha256": "abc"}}}, "weights.net.sha256"),
    ],
)
def test_a_wrong_manifest_names_file_key_and_reason(tmp_path, changes, words):
    with pytest.raises(ConfigurationError, match=r"algorithm\.yaml") as caught:
        load_registry(write(tmp_path, **changes))
    assert words in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"run\.algorithms_dir"):
        load_registry(tmp_path / "nowhere")


def test_listing_needs_no_torch():
    code = (
        "import sys; from dicom_node.run.registry import load_registry; "
        "load_registry(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
