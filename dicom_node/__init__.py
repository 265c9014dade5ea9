"""A DICOM AI node: receive, store, complete, route, run, encode, check, deliver, confirm."""

__version__ = "0.1.0"
