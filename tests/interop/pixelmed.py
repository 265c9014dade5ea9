"""Runs PixelMed's DicomSRValidator over many files in one Java machine, as a process of its own.

``python pixelmed.py JAR FILE...`` prints a JSON object: what the validator said of each file, line by line.
"""

from __future__ import annotations

import json
import sys

import jpype


def main(jar: str, files: list[str]) -> None:
    """Start Java, compile the validator's rules once, and validate."""
    # Its compiled rules are larger than what Java allows a style sheet by default.
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprOp", "ExprGrp")]
    jpype.startJVM("-Djava.awt.headless=true", *limits, classpath=[jar])
    validator = jpype.JClass("com.pixelmed.validate.DicomSRValidator")()
    read = jpype.JClass("com.pixelmed.dicom.AttributeList")
    said = {}
    for file in files:
        attributes = read()
        attributes.read(file)
        said[file] = str(validator.validate(attributes)).splitlines()
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
