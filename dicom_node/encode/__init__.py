"""Findings to DICOM: a Segmentation and a Measurement Report that refers to its segments."""
