"""Sends each series that has become stable to the node; for Orthanc's Python plugin. In orthanc.json:

    "PythonScript": "/etc/orthanc/dicom_node_plugin.py",
    "DicomModalities": {"dicom-node": ["DICOMNODE", "127.0.0.1", 11112]}

The node's results come back as SEG and SR: they are not sent to it again, so nothing goes round in circles.
"""

import json

import orthanc

NODE = "dicom-node"


def on_change(change_type, level, resource):
    """Called by Orthanc for each change."""
    if change_type != orthanc.ChangeType.STABLE_SERIES:
        return
    series = json.loads(orthanc.RestApiGet("/series/" + resource))
    if series["MainDicomTags"].get("Modality") in ("SEG", "SR"):
        return
    # As a job: Orthanc tries again by itself, and receives on meanwhile.
    orthanc.RestApiPost("/modalities/" + NODE + "/store", json.dumps({"Resources": [resource], "Synchronous": False}))


orthanc.RegisterOnChangeCallback(on_change)
