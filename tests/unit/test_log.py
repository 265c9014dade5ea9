"""What gets into the log, and what must not."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
from dicom_node import log
log.configure("json")
import logging
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.tag import Tag
for tag, vr in (("PatientBirthDate", "DA"), ("StudyInstanceUID", "UI")):
    convert_raw_data_element(RawDataElement(Tag(tag), vr, 12, b"Doe^Jane 1.0", 0, False, True))
logging.getLogger("pydicom").error("a failure")
log.get("receive").info("instance_stored", SOPInstanceUID="1.2.3")
"""


def test_a_header_value_that_pydicom_warns_of_is_not_logged() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60)
    assert "Jane" not in said.stderr
    lines = [json.loads(line) for line in said.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["a failure", "instance_stored"]
    assert lines[1]["SOPInstanceUID"] == "1.2.3"
