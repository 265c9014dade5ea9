"""The settings tree: its defaults, its documentation in node.yaml, and what it says when something is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from dicom_node.errors import ConfigurationError
from dicom_node.settings import Destination, Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
NODE_YAML = ROOT / "config" / "node.yaml"
OWN = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 11113}


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("DICOM_NODE__"):
            monkeypatch.delenv(name)


def write(folder: Path, values: Any) -> Path:
    """A node.yaml with these values."""
    file = folder / "node.yaml"
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return file


def keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every key of a settings tree, dotted; sections are entered."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def test_node_yaml_holds_the_defaults() -> None:
    from_file = load_settings(NODE_YAML).model_dump(exclude={"destinations", "routes_file"})

    assert from_file == Settings().model_dump(exclude={"destinations", "routes_file"})
    assert load_settings(NODE_YAML).routes_file == NODE_YAML.parent / Settings().routes_file


@pytest.mark.parametrize("key", sorted(set(keys(Settings)) - {"destinations"}))
def test_every_key_stands_in_node_yaml(key: str) -> None:
    at = yaml.safe_load(NODE_YAML.read_text(encoding="utf-8"))
    for part in key.split("."):
        assert part in at, f"{key} is not in {NODE_YAML.name}"
        at = at[part]


@pytest.mark.parametrize("key", sorted(keys(Destination)))
def test_every_key_of_a_destination_is_named_in_node_yaml(key: str) -> None:
    text = NODE_YAML.read_text(encoding="utf-8")

    assert key in text[text.index("# Where results go.") :]


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"ae_title": "PACS"}, "host", "needed for kind: dimse"),
        ({"kind": "dicomweb"}, "dicomweb_url", "needed for kind: dicomweb"),
        ({"kind": "orthanc"}, "orthanc_url", "needed for kind: orthanc"),
        ({"kind": "dicomweb", "dicomweb_url": "http://127.0.0.1/", "follow": True}, "follow", "kind: orthanc"),
    ],
)
def test_a_source_that_lacks_something(tmp_path: Path, values: dict[str, Any], key: str, words: str) -> None:
    file = write(tmp_path, {"sources": [{"name": "archive", **values}]})
    with pytest.raises(ConfigurationError, match=f"sources.archive.{key}: .*{words}"):
        load_settings(file)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"host": "0.0.0.0"}, "username_env"),
        ({"username_env": "NO_SUCH_USER"}, "username_env"),
        ({"username_env": "PATH"}, "password_env"),
        ({"client_ca_file": "/no/such.pem"}, "certificate"),
    ],
)
def test_dicomweb_is_opened_only_with_care(tmp_path: Path, values: dict[str, Any], key: str) -> None:
    file = write(tmp_path, {"dicomweb": {"enabled": True, **values}})
    with pytest.raises(ConfigurationError, match=f"dicomweb.{key}: "):
        load_settings(file)
    load_settings(write(tmp_path, {"dicomweb": values}))  # it is not started


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, {"receive": {"port": 104, "ae_title": "FILE"}})
    monkeypatch.setenv("DICOM_NODE__RECEIVE__PORT", "4104")
    monkeypatch.setenv("DICOM_NODE__RECEIVE__CALLING_AE_TITLES", '["CT1", "MR1"]')

    receive = load_settings(file).receive

    assert (receive.port, receive.ae_title, receive.calling_ae_titles) == (4104, "FILE", ("CT1", "MR1"))


def test_a_wrong_value_from_the_environment_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, {"receive": {"ae_title": "FILE"}, "complete": {"quiet_seconds": -1}})
    monkeypatch.setenv("DICOM_NODE__RECEIVE__PORT", "many")

    with pytest.raises(ConfigurationError) as raised:
        load_settings(file)

    lines = sorted(str(raised.value).splitlines())
    assert lines[0].startswith(f"{file}: complete.quiet_seconds")
    assert lines[1].startswith("environment variable DICOM_NODE__RECEIVE__PORT: receive.port")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DICOM_NODE__RECEIVE__CALLING_AE_TITLES", "CT1", r'must be JSON; a list is written \["A", "B"\]'),
        ("DICOM_NODE__RECIEVE__PORT", "104", r"there is no setting recieve; accepted: node_id, data_dir"),
        ("DICOM_NODE__RECEIVE__PROT", "104", r"there is no such key; accepted: ae_title, host, port"),
    ],
)
def test_a_misspelt_variable_is_named(name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=f"environment variable {name}: .*{words}"):
        load_settings(NODE_YAML)


def test_a_file_in_another_encoding_is_said_to_be_so(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_bytes("node_id: Zürich".encode("latin-1"))

    with pytest.raises(ConfigurationError, match=r"node\.yaml: is not UTF-8"):
        load_settings(file)


def test_destinations_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE__DESTINATIONS", '[{"name": "x", "ae_title": "X", "host": "x.example", "port": 104}]')

    assert load_settings(NODE_YAML).destination("x").host == "x.example"


def test_an_unknown_destination_names_the_known(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, {"destinations": [OWN]}))

    with pytest.raises(ConfigurationError, match=r"no destination is named 'other'; known: pacs"):
        settings.destination("other")


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        pytest.param({"receive": {"port": "many"}}, "receive.port", "valid integer", id="wrong type"),
        pytest.param({"receive": {"port": 70000}}, "receive.port", "less than or equal to 65535", id="out of range"),
        pytest.param({"receive": {"prot": 104}}, "receive.prot", "accepted: ae_title, host, port", id="unknown key"),
        pytest.param({"recieve": {"port": 104}}, "recieve", "accepted: node_id, data_dir", id="unknown section"),
        pytest.param({"run": {"device": "tpu"}}, "run.device", "'auto', 'cpu' or 'cuda'", id="not a choice"),
        pytest.param(
            {"complete": {"quiet_seconds": -1}}, "complete.quiet_seconds", "greater than or equal to 0", id="negative"
        ),
        pytest.param({"receive": {"ae_title": "A" * 17}}, "receive.ae_title", "at most 16", id="AE title too long"),
        pytest.param({"receive": {"ae_title": "A\\B"}}, "receive.ae_title", "pattern", id="AE title with a backslash"),
        pytest.param(
            {"receive": {"host": "0.0.0.0"}}, "receive.calling_ae_titles", "list the AE titles", id="open to all"
        ),
        pytest.param(
            {"receive": {"calling_hosts": ["ct1.example"]}},
            "receive.calling_hosts.0",
            "accepted: an IP address such as 10.0.0.7, or a network such as 10.0.0.0/24",
            id="a host's name",
        ),
        pytest.param({"receive": {"port": None}}, "receive.port", "the node must listen somewhere", id="no port"),
        pytest.param(
            {"receive": {"tls_port": 2762}},
            "tls.certificate_file",
            "because receive.tls_port is set",
            id="TLS, no files",
        ),
        pytest.param(
            {"destinations": [OWN | {"tls": True}], "tls": {"certificate_file": "a", "private_key_file": "b"}},
            "tls.authorities_file",
            "because destinations.pacs.tls is set",
            id="TLS to a destination, no authorities",
        ),
        pytest.param(
            {"receive": {"peers": [{"ae_title": "CT1", "host": "x", "port": 104, "tls": True}]}},
            "tls.certificate_file",
            "because receive.peers.0.tls is set",
            id="TLS to a peer, no files",
        ),
        pytest.param(
            {"receive": {"peers": [{"ae": "CT1"}]}},
            "receive.peers.0.ae",
            "accepted: ae_title, host, port",
            id="unknown key of a peer",
        ),
        pytest.param(
            {"tls": {"private_key_password_env": "NO_SUCH_SECRET"}},
            "tls.private_key_password_env",
            "NO_SUCH_SECRET is not set",
            id="missing password",
        ),
        pytest.param({"destinations": [OWN, OWN]}, "destinations", "'pacs' is used twice", id="duplicate destination"),
        pytest.param(
            {"destinations": [{"name": "x"}]}, "destinations.x.ae_title", "needed for kind: dimse", id="missing key"
        ),
        pytest.param(
            {"destinations": [OWN | {"confirm": "qido"}]}, "destinations.pacs.dicomweb_url", "needed", id="qido, no URL"
        ),
        pytest.param(
            {"destinations": [{"name": "x", "kind": "orthanc"}]},
            "destinations.x.orthanc_url",
            "needed",
            id="Orthanc, no URL",
        ),
        pytest.param(
            {"destinations": [OWN | {"token_url": "https://id.example/token"}]},
            "destinations.pacs.client_id_env",
            "needed for token_url",
            id="token, no client",
        ),
        pytest.param(
            {"destinations": [OWN | {"ca_file": "/no/such.pem"}]},
            "destinations.pacs.ca_file",
            "cannot be read",
            id="CA",
        ),
        pytest.param(
            {"destinations": [OWN | {"password_env": "NO_SUCH_SECRET"}]},
            "destinations.pacs.password_env",
            "NO_SUCH_SECRET is not set",
            id="missing secret",
        ),
    ],
)
def test_an_error_names_file_key_and_what_is_accepted(
    tmp_path: Path, values: dict[str, Any], key: str, words: str
) -> None:
    file = write(tmp_path, values)

    with pytest.raises(ConfigurationError) as caught:
        load_settings(file)

    message = str(caught.value)
    assert f"{file}: {key}: " in message
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "is not YAML"), ("- a\n- b\n", "must be a mapping of settings")],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = write(tmp_path, text)

    with pytest.raises(ConfigurationError, match=words) as caught:
        load_settings(file)

    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load_settings(tmp_path / "absent.yaml")


def test_every_error_is_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, {"receive": {"port": "x"}, "run": {"attempts": 0}})

    with pytest.raises(ConfigurationError, match=r"(?s)receive\.port.*run\.attempts"):
        load_settings(file)


def test_an_open_listener_with_known_peers_is_accepted(tmp_path: Path) -> None:
    file = write(tmp_path, {"receive": {"host": "0.0.0.0", "calling_ae_titles": ["CT1"]}})

    assert load_settings(file).receive.host == "0.0.0.0"


def test_a_secret_in_the_environment_is_accepted_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_PASSWORD", "s3cret-value")

    settings = load_settings(write(tmp_path, {"destinations": [OWN | {"password_env": "PACS_PASSWORD"}]}))

    assert "s3cret-value" not in repr(settings)
