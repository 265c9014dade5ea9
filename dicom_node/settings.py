"""The settings tree: ``config/node.yaml``, overridden by environment variables ``DICOM_NODE__SECTION__KEY``.

Secrets never stand in the file: they come from the environment or from a file that a key names.
"""

from __future__ import annotations

import ipaddress
import json
import os
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from dicom_node.errors import ConfigurationError
from dicom_node.settings_peers import AETitle, PeerSettings, Section
from dicom_node.settings_peers import Destination as Destination
from dicom_node.settings_peers import Peer as Peer
from dicom_node.settings_peers import Source as Source
from dicom_node.settings_peers import TlsSettings as TlsSettings
from dicom_node.settings_web import DicomwebSettings as DicomwebSettings
from dicom_node.settings_worklists import StationCode, WorkitemCode
from dicom_node.settings_worklists import Worklist as Worklist


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as e:
        raise ValueError("accepted: an IP address such as 10.0.0.7, or a network such as 10.0.0.0/24") from e
    return value


_DESCRIPTION_PARTS = ("algorithm", "version", "result")
_LARGEST_SERIES_NUMBER = 2**31 - 10_000
"""An Integer String has 32 bits (PS3.5 section 6.2), and the results of many algorithms have numbers from here on."""


def _description(template: str) -> str:
    accepted = "accepted: text with {algorithm}, {version} and {result}, for example: AI {algorithm} {result}"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as e:
        raise ValueError(f"{e}; {accepted}") from e
    names = [name for _, name, _, _ in parts if name is not None]
    foreign = any(name not in _DESCRIPTION_PARTS for name in names)
    if foreign or any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError(accepted)
    if "result" not in names:
        raise ValueError(f"without {{result}} all results of a run would be called the same; {accepted}")
    return template


Network = Annotated[str, AfterValidator(_network)]


class ReceiveSettings(Section):
    """The C-STORE listener."""

    ae_title: AETitle = "DICOMNODE"
    host: str = "127.0.0.1"
    """Address to listen on. Loopback until opened on purpose."""
    port: int | None = Field(11112, ge=0, le=65535)
    """Without TLS. 0 lets the system choose; the chosen port is logged. None: TLS only."""
    tls_port: int | None = Field(None, ge=0, le=65535)
    """With TLS, by certificates of both sides. None: no TLS. 2762 is the registered one."""
    calling_hosts: tuple[Network, ...] = ()
    """Addresses and networks that may connect, beside this machine. Empty: none."""
    calling_ae_titles: tuple[AETitle, ...] = ()
    """Peers that may send. Empty: any, which is accepted on loopback only."""
    require_called_ae_title: bool = False
    """Refuse associations that call another AE title than ours."""
    maximum_associations: int = Field(50, ge=1, le=1000)
    maximum_associations_per_peer: int = Field(25, ge=1, le=1000)
    """From one address: one peer gone mad must not keep out all others."""
    maximum_pdu_bytes: int = Field(131072, ge=4096)
    artim_seconds: float = Field(30, gt=0)
    """A connection that has not come to its association request by then is closed (PS3.8 section 9.1.5)."""
    idle_seconds: float = Field(60, gt=0)
    """An association without a message, and a message without a byte, for so long is aborted."""
    message_seconds: float = Field(600, gt=0)
    """A message that is not whole by then is aborted, however it trickles."""
    peers: tuple[Peer, ...] = ()
    """Where those listen who ask for storage commitment, if no destination has their AE title."""
    disk_reserve_mb: int = Field(500, ge=0)
    """Below so much free disk new instances get 0xA700 Out of Resources."""
    durability: Literal["instance", "association", "none"] = "instance"
    """When what came survives a power failure: before its Success, before the association's release is answered, or
    when the system pleases. A crash of the node alone loses nothing that was acknowledged in any of them."""
    largest_object_mb: int = Field(4096, ge=1)
    """An instance beyond it is refused with 0xA700 Out of Resources."""
    reader: Literal["fast", "stock"] = "fast"
    """Who reads C-STORE requests: the node itself, or pynetdicom, which is several times slower."""


class CompleteSettings(Section):
    """When a study is whole: evidence first (MPPS, IAN, an archive's count), else a quiet time."""

    quiet_seconds: float = Field(10, ge=0)
    """Without evidence, a study is complete after so long without a new instance."""
    hold_seconds: float = Field(300, ge=0)
    """Evidence that images are missing holds a study back for so much longer, and no more."""
    settle_seconds: float = Field(30, gt=0)
    """An archive's count is final when it stood still for so long: longer than the pauses with which it receives."""
    answer_seconds: float = Field(15, gt=0)
    """An archive that has not given its count by then is waited for no more."""
    expect: Literal["study", "series"] = "study"
    """What is sent here: whole studies, so that a series of which nothing came is waited for, or some series only."""
    sweep_seconds: float = Field(0.5, gt=0)
    """How often quiet studies are looked for."""


class RunSettings(Section):
    """Where and how models run."""

    algorithms_dir: Path | None = None
    """Folder of algorithm folders. None: the ``algorithms/`` beside the configuration's folder or the package."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: every CUDA device, one worker each; without a GPU one worker on the CPU."""
    cpu_threads: int = Field(0, ge=0)
    """Threads of a CPU worker. 0: all cores."""
    attempts: int = Field(3, ge=1)
    """A run whose worker died or timed out is tried so often before it is set as failed."""


class ResultSettings(Section):
    """How results look to the site."""

    series_number_base: int = Field(9000, ge=1, le=_LARGEST_SERIES_NUMBER)
    """Series Number of the first algorithm's first result series; each further algorithm begins ten later."""
    series_numbers: Mapping[str, Annotated[int, Field(ge=1, le=_LARGEST_SERIES_NUMBER)]] = {}
    """By algorithm: the Series Number of its first result series, in place of what follows from the base."""
    series_description: Annotated[str, AfterValidator(_description)] = "{algorithm} {result}"
    """Series Description of the results; "(research use only)" is added."""
    series_date: Literal["creation", "source"] = "creation"
    """Series Date and Time of the results: when they were made, or those of the images' series."""
    institution_name: str = ""

    def first_series_number(self, algorithm: str, installed: Collection[str]) -> int:
        """Series Number of the algorithm's first result series.

        Args:
            installed: all algorithms there are: in their order each takes ten numbers from the base.
        """
        return self.series_numbers.get(algorithm, self.series_number_base + 10 * sorted(installed).index(algorithm))


class PriorSettings(Section):
    """Prior studies, for the algorithms that ask for them."""

    enabled: bool = True
    """Look for them; without, reports stand alone."""
    minimum_days: int = Field(1, ge=1)
    """A prior is at least so many days older; an algorithm's manifest may ask for more."""
    time_limit_seconds: float = Field(60, gt=0)
    """A run goes on without a prior that is not here by then, and the report says so."""


class RetentionSettings(Section):
    """When received files may go."""

    keep_days: float = Field(0, ge=0)
    """Remove studies whose runs have all ended and that are older than this. 0: keep for ever."""


class Settings(BaseSettings):
    """All settings; frozen, checked whole at start."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="DICOM_NODE__", env_nested_delimiter="__")

    node_id: str = Field("dicom-node", min_length=1, pattern=r"^[A-Za-z0-9_.-]+$")
    """Names this site's node in derived UIDs: two nodes must not share it."""
    data_dir: Path = Path("node-data")
    """Instances, results and the database."""
    database_url: str | None = None
    """None: SQLite in ``data_dir``. ``postgresql+psycopg://user@host/name`` for several hosts."""
    routes_file: Path = Path("routes.yaml")
    """The routing rules, relative to node.yaml's folder."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON lines otherwise."""
    receive: ReceiveSettings = ReceiveSettings()
    tls: TlsSettings = TlsSettings()
    dicomweb: DicomwebSettings = DicomwebSettings()
    complete: CompleteSettings = CompleteSettings()
    run: RunSettings = RunSettings()
    results: ResultSettings = ResultSettings()
    priors: PriorSettings = PriorSettings()
    retention: RetentionSettings = RetentionSettings()
    destinations: tuple[Destination, ...] = ()
    sources: tuple[Source, ...] = ()
    worklists: tuple[Worklist, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides what the file says."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _give_identity(self) -> Self:
        for peer in (*self.destinations, *self.sources, *self.worklists, *self.receive.peers):
            peer._identity = self.tls
        return self

    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'node.sqlite').absolute()}"

    def destination(self, name: str) -> Destination:
        """The destination of that name.

        Raises:
            ConfigurationError: there is none.
        """
        return _named("destination", name, self.destinations)

    def source(self, name: str) -> Source:
        """The source of that name.

        Raises:
            ConfigurationError: there is none.
        """
        return _named("source", name, self.sources)


P = TypeVar("P", bound=PeerSettings)


def _named(what: str, name: str, peers: Sequence[P]) -> P:
    for peer in peers:
        if peer.name == name:
            return peer
    known = ", ".join(peer.name for peer in peers) or "none is configured"
    raise ConfigurationError(f"no {what} is named {name!r}; known: {known}")


def load_settings(path: Path | None) -> Settings:
    """Read ``node.yaml`` (None: defaults and environment only) and check it whole.

    Relative paths in the file are relative to the current folder, but ``routes_file`` is relative to the file.

    Raises:
        ConfigurationError: names file, key, what is wrong and what is accepted.
    """
    values: dict[str, Any] = {}
    where = "the environment"
    if path is not None:
        where = str(path)
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise ConfigurationError(f"{path}: cannot be read: {e.strerror}") from e
        except UnicodeDecodeError as e:
            raise ConfigurationError(f"{path}: is not UTF-8 text: {e}") from e
        except yaml.YAMLError as e:
            raise ConfigurationError(f"{path}: is not YAML: {e}") from e
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigurationError(f"{path}: must be a mapping of settings")
        values = loaded or {}
    try:
        settings = Settings(**values)
    except ValidationError as e:
        raise ConfigurationError(_explain(where, e)) from e
    except SettingsError as e:
        raise ConfigurationError(_not_json()) from e
    _check_environment()
    if path is not None and not settings.routes_file.is_absolute():
        settings = settings.model_copy(update={"routes_file": path.parent / settings.routes_file})
    _check_border(where, settings)
    return settings


def _in_environment() -> dict[tuple[str, ...], str]:
    """The environment's settings: key, in parts, and the variable's name."""
    prefix = "DICOM_NODE__"
    return {tuple(n[len(prefix) :].lower().split("__")): n for n in os.environ if n.upper().startswith(prefix)}


def _check_environment() -> None:
    """pydantic-settings passes over a variable whose section does not exist: a misspelt one would do nothing."""
    for key, name in _in_environment().items():
        if key[0] not in Settings.model_fields:
            known = ", ".join(Settings.model_fields)
            raise ConfigurationError(f"environment variable {name}: there is no setting {key[0]}; accepted: {known}")


def _not_json() -> str:
    """Which variables are to blame: the message of pydantic-settings names only the section."""
    lines = []
    for key, name in _in_environment().items():
        value: Any = Settings.model_fields[key[0]].default if key[0] in Settings.model_fields else None
        for part in key[1:]:
            value = getattr(value, part, None)
        if isinstance(value, tuple | BaseModel):
            try:
                json.loads(os.environ[name])
            except ValueError:
                lines.append(f'environment variable {name}: must be JSON; a list is written ["A", "B"]')
    return "\n".join(lines)


def _explain(where: str, error: ValidationError) -> str:
    lines = []
    in_environment = _in_environment()
    file = where
    for e in error.errors():
        key = ".".join(str(part) for part in e["loc"]) or "(whole file)"
        variable = in_environment.get(tuple(str(part).lower() for part in e["loc"]))
        where = f"environment variable {variable}" if variable else file
        if e["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: there is no such key; accepted: {', '.join(_keys_beside(e['loc']))}")
            continue
        got = "" if e["type"] == "missing" else f" (got {e['input']!r})"
        lines.append(f"{where}: {key}: {e['msg']}{got}")
    return "\n".join(lines)


_LISTS: dict[int | str, type[BaseModel]] = {
    "destinations": Destination,
    "sources": Source,
    "peers": Peer,
    "worklists": Worklist,
    "workitems": WorkitemCode,
    "station": StationCode,
}


def _keys_beside(loc: tuple[int | str, ...]) -> Iterable[str]:
    """The keys that the section of an unknown key has."""
    section: type[BaseModel] = Settings
    for part in loc[:-1]:
        if part in _LISTS:
            section = _LISTS[part]
        elif isinstance(part, str):
            section = type(section.model_fields[part].default)
    return section.model_fields


def _check_border(where: str, settings: Settings) -> None:
    receive = settings.receive
    if receive.host not in ("127.0.0.1", "::1", "localhost") and not receive.calling_ae_titles:
        raise ConfigurationError(
            f"{where}: receive.calling_ae_titles: list the AE titles that may send, "
            f"because receive.host {receive.host} is reachable from other machines"
        )
    if receive.port is None and receive.tls_port is None:
        raise ConfigurationError(f"{where}: receive.port: set it or receive.tls_port: the node must listen somewhere")
    _check_tls(where, settings)
    if settings.dicomweb.enabled:
        for key, problem in settings.dicomweb.problems():
            raise ConfigurationError(f"{where}: dicomweb.{key}: {problem}")
    peers: dict[str, Sequence[PeerSettings]] = {
        "destinations": settings.destinations,
        "sources": settings.sources,
        "worklists": settings.worklists,
    }
    for key, several in peers.items():
        names = [peer.name for peer in several]
        for peer in several:
            if names.count(peer.name) > 1:
                raise ConfigurationError(f"{where}: {key}: the name {peer.name!r} is used twice")
            for part, problem in peer.problems():
                raise ConfigurationError(f"{where}: {key}.{peer.name}.{part}: {problem}")
    _check_counts(where, settings)


def _check_counts(where: str, settings: Settings) -> None:
    """See that counts can decide, and by which archive."""
    counting = [source for source in settings.sources if source.counts]
    complete = settings.complete
    if counting and complete.settle_seconds > complete.quiet_seconds + complete.hold_seconds:
        raise ConfigurationError(
            f"{where}: complete.settle_seconds: no count could ever decide: it must not be longer than quiet_seconds "
            f"and hold_seconds together, which are {complete.quiet_seconds + complete.hold_seconds:g} "
            f"(got {complete.settle_seconds:g})"
        )
    counted: dict[str, str] = {}
    for source in counting:
        for title in source.counts_for:
            if title in counted:
                raise ConfigurationError(
                    f"{where}: sources.{source.name}.counts_for: the studies of {title} are counted by "
                    f"{counted[title]} already; one archive can"
                )
            counted[title] = source.name
    sources = [source.name for source in settings.sources]
    for worklist in settings.worklists:
        if worklist.source is not None and worklist.source not in sources:
            known = ", ".join(sources) or "none is configured"
            raise ConfigurationError(
                f"{where}: worklists.{worklist.name}.source: no source is named {worklist.source!r}; known: {known}"
            )


def _check_tls(where: str, settings: Settings) -> None:
    """See that who uses TLS has said with which files."""
    users = [f"destinations.{d.name}.tls" for d in settings.destinations if d.tls]
    users += [f"sources.{source.name}.tls" for source in settings.sources if source.tls]
    users += [f"receive.peers.{n}.tls" for n, p in enumerate(settings.receive.peers) if p.tls]
    if settings.receive.tls_port is not None:
        users.append("receive.tls_port")
    for key in ("certificate_file", "private_key_file", "authorities_file"):
        if users and getattr(settings.tls, key) is None:
            raise ConfigurationError(f"{where}: tls.{key}: name a PEM file, because {users[0]} is set")
    variable = settings.tls.private_key_password_env
    if variable and variable not in os.environ:
        raise ConfigurationError(f"{where}: tls.private_key_password_env: {variable} is not set")
