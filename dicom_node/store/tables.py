"""The tables, and the engine they live in. The workflow engine's tables share the same database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, String, Text

from dicom_node.errors import ConfigurationError

metadata = sa.MetaData()

studies = sa.Table(
    "studies",
    metadata,
    Column("study_uid", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("revision", Integer, nullable=False, default=0),  # how often it was found complete
    Column("first_arrival", Float, nullable=False),  # seconds since the epoch, as all times here
    Column("last_arrival", Float, nullable=False, index=True),
    Column("reason", Text, nullable=False, default=""),
    sa.Index("ix_studies_state_last_arrival", "state", "last_arrival"),  # the sweep's, some times a second
)

instances = sa.Table(
    "instances",
    metadata,
    Column("sop_uid", String(64), primary_key=True),
    Column("sop_class", String(64), nullable=False),
    Column("series_uid", String(64), nullable=False, index=True),
    Column("study_uid", String(64), nullable=False, index=True),
    Column("transfer_syntax", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("patient_key", String(64), nullable=False, index=True),  # by which prior studies are found
    Column("tags", sa.JSON, nullable=False),
    Column("own", Boolean, nullable=False),
    Column("source", String(16), nullable=False),
    Column("called", String(16), nullable=False),
    Column("arrival", Float, nullable=False),
)

problems = sa.Table(
    "problems",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study_uid", String(64), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("text", Text, nullable=False),
)

routes = sa.Table(
    "routes",
    metadata,
    Column("study_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("series_uid", String(64), primary_key=True),
    Column("rule", String(128), primary_key=True),
    Column("algorithm", String(64), nullable=False),
    Column("wanted", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("study_uid", String(64), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("series_uid", String(64), nullable=False),
    Column("algorithm", String(64), nullable=False),
    Column("destinations", sa.JSON, nullable=False),  # names
    Column("inputs", sa.JSON, nullable=False),  # SOP Instance UIDs, as routed
    Column("state", String(16), nullable=False, index=True),
    Column("reason", Text, nullable=False, default=""),
    Column("created", Float, nullable=False),
    Column("last_arrival", Float, nullable=False),  # of the revision's last instance
    Column("ended", Float),
    Column("measurements", sa.JSON, nullable=False, default=list),
    Column("record", sa.JSON, nullable=False, default=dict),  # device, versions, hashes, seeds, evidence
)

steps = sa.Table(
    "steps",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True),
    Column("step", String(64), primary_key=True),
    Column("started", Float, nullable=False),
    Column("seconds", Float, nullable=False),
)

results = sa.Table(
    "results",
    metadata,
    Column("sop_uid", String(64), primary_key=True),
    Column("run_id", String(64), ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("role", String(16), nullable=False),
    Column("sop_class", String(64), nullable=False),
    Column("series_uid", String(64), nullable=False),
    Column("path", Text, nullable=False),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True),
    Column("destination", String(64), primary_key=True),
    Column("sop_uid", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("error", Text, nullable=False, default=""),
    Column("sent", Float),
    Column("confirmed", Float),
)

commitments = sa.Table(
    "commitments",
    metadata,
    Column("requestor", String(16), primary_key=True),  # calling AE title
    Column("transaction_uid", String(64), primary_key=True),
    Column("called", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    Column("wanted", sa.JSON, nullable=False),  # [SOP Class UID, SOP Instance UID] each
    Column("report", sa.JSON),  # a Failure Reason for each, 0 for none; null until it is found out
    Column("created", Float, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("due", Float, nullable=False, index=True),
    Column("error", Text, nullable=False, default=""),
    Column("given_up", Boolean, nullable=False, default=False),
)


pulls = sa.Table(
    "pulls",
    metadata,
    Column("source", String(128), primary_key=True),
    Column("study_uid", String(64), primary_key=True),
    Column("state", String(16), nullable=False, index=True),
    Column("reason", Text, nullable=False, default=""),
    Column("attempts", Integer, nullable=False, default=0),
    Column("asked", Float, nullable=False),  # when the study was asked for
    Column("due", Float, nullable=False),  # when it is tried (again)
    Column("ended", Float),
    Column("instances", Integer),  # how many the source has; null: it does not say
)

announcements = sa.Table(
    "announcements",  # Modality Performed Procedure Steps and Instance Availability Notifications
    metadata,
    Column("uid", String(64), primary_key=True),  # SOP Instance UID of the step or the notification
    Column("study_uid", String(64), primary_key=True, index=True),  # a step may be for several studies
    Column("kind", String(8), nullable=False),  # MPPS or IAN
    Column("state", String(16), nullable=False),
    Column("calling", String(16), nullable=False),
    Column("created", Float, nullable=False),
    Column("changes", Integer, nullable=False, default=0),
)

announced_images = sa.Table(
    "announced_images",
    metadata,
    Column("uid", String(64), primary_key=True),  # of the announcement
    Column("sop_uid", String(64), primary_key=True, index=True),
    Column("series_uid", String(64), nullable=False),
)

counts = sa.Table(
    "counts",  # what an archive said of how many instances a study has
    metadata,
    Column("study_uid", String(64), primary_key=True),
    Column("source", String(128), nullable=False),
    Column("series", sa.JSON, nullable=False),  # instances by Series Instance UID
    Column("others", sa.JSON, nullable=False),  # likewise, of series without images
    Column("since", Float),
    Column("asked", Float),
    Column("failed", Float),
    Column("error", Text, nullable=False, default=""),
    Column("refused", Boolean, nullable=False, default=False),
    Column("left_out", sa.JSON, nullable=False),  # how many of a series are neither images nor here
)

completions = sa.Table(
    "completions",
    metadata,
    Column("study_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("by", String(16), nullable=False),  # what decided
    Column("words", Text, nullable=False),
)

prior_fetches = sa.Table(
    "prior_fetches",
    metadata,
    Column("study_uid", String(64), primary_key=True),
    Column("began", Float, nullable=False),
    Column("ended", Float),  # null: it is under way
    Column("whole", Boolean, nullable=False, default=False),  # all that the archive has of it came
)

points = sa.Table(
    "points",
    metadata,
    Column("source", String(128), primary_key=True),
    Column("point", Integer, nullable=False),  # up to where a source's changes have been read
)

workitems = sa.Table(
    "workitems",
    metadata,
    Column("worklist", String(128), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("state", String(16), nullable=False, index=True),
    Column("reason", Text, nullable=False, default=""),
    Column("transaction_uid", String(64), nullable=False),  # who holds it owns the workitem
    Column("algorithm", String(64), nullable=False),
    Column("code", sa.JSON, nullable=False),  # [value, scheme, meaning] of the scheduled workitem code
    Column("study_uid", String(64), nullable=False, default=""),
    Column("source", String(128), nullable=False, default=""),  # where the input comes from; empty: it was here
    Column("inputs", sa.JSON, nullable=False, default=list),  # SOP Instance UIDs
    Column("discontinued", sa.JSON, nullable=False, default=list),  # codes of why it was discontinued
    Column("cancel", sa.JSON),  # a request to cancel: {requester, reason, codes}
    Column("progress", Integer, nullable=False, default=-1),  # percent that the server was told
    Column("claimed", Float, nullable=False),
    Column("decided", Float),  # when the work was at its end, whichever it is
    Column("ended", Float),  # when the server had been told
    Column("due", Float, nullable=False),  # when it is looked at (again)
    Column("attempts", Integer, nullable=False, default=0),  # failed ones since the last that did not
    Column("error", Text, nullable=False, default=""),  # of the last failure
)


def open_engine(url: str) -> sa.Engine:
    """Open the database and make what tables are missing.

    SQLite runs with a write-ahead log, synchronous=FULL (a commit is on the disk) and a 30 s busy timeout.

    Raises:
        ConfigurationError: the URL is none, its driver is not installed, or the database cannot be opened.
    """
    with _explained(url):
        return _open(url)


def check_database(url: str) -> str:
    """Reach the database without changing it; returns its URL without the password.

    Raises:
        ConfigurationError: as :func:`open_engine`.
    """
    with _explained(url):
        parsed = sa.make_url(url)
        if not url.startswith("sqlite"):  # a SQLite file is made when the node starts
            sa.create_engine(url).connect().close()
        return parsed.render_as_string(hide_password=True)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.ArgumentError as e:
        raise ConfigurationError("database_url: must be a URL such as postgresql+psycopg://user@host/name") from e
    except ModuleNotFoundError as e:
        raise ConfigurationError(f"database_url: the driver {e.name} is not installed") from e
    except sa.exc.DBAPIError as e:
        where = sa.make_url(url).render_as_string(hide_password=True)
        raise ConfigurationError(f"the database {where} cannot be opened: {e.orig}") from e


def _open(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        engine = sa.create_engine(url, pool_pre_ping=True)
        _create(engine)
        return engine
    file = sa.make_url(url).database
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    _create(engine)
    return engine


def _create(engine: sa.Engine) -> None:
    """Make tables that are missing, and indexes that a database of an earlier version lacks."""
    metadata.create_all(engine)
    there = sa.inspect(engine)
    for table in metadata.tables.values():
        names = {index["name"] for index in there.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in names:
                index.create(engine)
