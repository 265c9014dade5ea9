"""Structured logs: one stable ``event`` per thing that happens, with ids, without patient data."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import structlog

LogFormat = Literal["auto", "console", "json"]

_chosen: tuple[LogFormat, Path | None, int] = ("auto", None, logging.INFO)


def chosen() -> tuple[LogFormat, Path | None, int]:
    """What :func:`configure` was last given: a child process logs as its parent does."""
    return _chosen


def configure(log_format: LogFormat = "auto", file: Path | None = None, level: int = logging.INFO) -> None:
    """Send every log line from ``level`` up, of libraries too, to stderr (or to ``file``) in one format."""
    global _chosen
    _chosen = (log_format, file, level)
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and file is None)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Libraries' lower levels, and pydicom's warnings, repeat header values: that would put patient data in the log.
    for name in ("pynetdicom", "dbos", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    handler.addFilter(_repeats_no_header)  # no level of theirs: pydicom sets its own when it is imported
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a tick that was skipped is no news
    warnings.filterwarnings("ignore", module="pydicom")


def _repeats_no_header(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or record.name.partition(".")[0] not in ("pydicom", "highdicom")


def get(name: str) -> Any:
    """A logger; bind ids, then ``log.info("instance_stored", SOPInstanceUID=...)``."""
    return structlog.get_logger(name)
