"""deploy/ is linted, since no Docker engine can be counted on: Dockerfile, compose files, systemd unit."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
UNIT = DEPLOY / "systemd" / "dicom-node.service"
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|PRIVATE_?KEY|CREDENTIAL", re.IGNORECASE)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


def lint_dockerfile(text: str, context: Path) -> list[str]:
    """What is wrong with a Dockerfile, by the rules that matter to us."""
    found = list(instructions(text))
    wrong = []
    for name, rest in found:
        if name == "FROM":
            image = rest.split()[0]
            if "@sha256:" not in image and (":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")):
                wrong.append(f"FROM {image}: not pinned")
        if name == "ADD":
            wrong.append("ADD: use COPY, which takes neither URLs nor archives")
        if name in ("COPY", "ADD"):
            words = [w for w in shlex.split(rest) if not w.startswith("--")]
            wrong += [f"{name} {w}: is not in the repository" for w in words[:-1] if not (context / w).exists()]
        if name in ("ENV", "ARG") and SECRET.search(re.sub(r"=\S*", "=", rest)):
            wrong.append(f"{name}: a secret in the image")
        if name == "RUN" and "apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest:
            wrong.append("RUN: apt's lists stay in the layer")
        if name in ("CMD", "ENTRYPOINT") and not rest.startswith("["):
            wrong.append(f"{name}: shell form, signals do not reach the node")
    users = [rest.split(":")[0] for name, rest in found if name == "USER"]
    if not users or users[-1] in ("root", "0"):
        wrong.append("USER: the last one must be somebody other than root")
    if found[0][0] not in ("FROM", "ARG"):
        wrong.append("FROM: must come first")
    if not any(name == "HEALTHCHECK" and rest != "NONE" for name, rest in found):
        wrong.append("HEALTHCHECK: there is none")
    return wrong


def known_command(words: Sequence[str]) -> None:
    """Fail unless ``dicom-node WORDS`` is a command with these options."""
    from dicom_node.cli import app

    command: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, f"dicom-node {' '.join(words)}: no command {rest[0]}"
        command = command.commands[rest.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("-")} <= options, f"dicom-node {' '.join(words)}: unknown option"


def test_the_dockerfile_is_sound() -> None:
    assert lint_dockerfile(DOCKERFILE.read_text(encoding="utf-8"), ROOT) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (r"(?m)^FROM (\S+):\S+", r"FROM \1", "not pinned"),
        (r"(?m)^FROM (\S+):\S+", r"FROM \1:latest", "not pinned"),
        (r"(?m)^USER .*", "", "other than root"),
        (r"(?m)^USER .*", "USER root", "other than root"),
        (r"(?m)^COPY dicom_node ", "ADD https://host.example/x.tar ", "use COPY"),
        (r"(?m)^COPY dicom_node ", "COPY no_such_folder ", "not in the repository"),
        (r"HEALTHCHECK", "LABEL", "there is none"),
        (r"(?m)^EXPOSE .*", "ENV PACS_PASSWORD=x", "a secret"),
        (r"&& rm -rf \S+", "", "apt's lists"),
        (r"(?m)^CMD .*", "CMD dicom-node serve", "shell form"),
    ],
)
def test_the_linter_sees(old: str, new: str, complaint: str) -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    spoilt = re.sub(old, new, text)
    assert spoilt != text

    assert any(complaint in line for line in lint_dockerfile(spoilt, ROOT))


def test_the_image_starts_a_command_that_exists() -> None:
    found = dict(instructions(DOCKERFILE.read_text(encoding="utf-8")))
    words = json.loads(found["ENTRYPOINT"]) + json.loads(found["CMD"])

    assert words[0] == "dicom-node"
    known_command(words[1:])


def test_the_health_check_is_python_that_compiles() -> None:
    found = dict(instructions(DOCKERFILE.read_text(encoding="utf-8")))
    words = json.loads(found["HEALTHCHECK"].partition(" CMD ")[2])

    assert words[:2] == ["python", "-c"]
    compile(words[2], "HEALTHCHECK", "exec")


def test_what_the_image_copies_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    copied = {
        word
        for name, rest in instructions(DOCKERFILE.read_text(encoding="utf-8"))
        if name == "COPY"
        for word in rest.split()[:-1]
    }

    assert copied == kept


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def test_compose_has_node_and_pacs_with_volumes_of_their_own(compose: Any) -> None:
    assert set(compose["services"]) == {"node", "orthanc"}
    for service in compose["services"].values():
        for volume in service["volumes"]:
            assert volume.split(":")[0] in compose["volumes"]
        assert service["restart"] == "unless-stopped"
        assert "no-new-privileges:true" in service["security_opt"]
        assert not service.get("privileged", False)


def test_compose_images_are_pinned(compose: Any) -> None:
    for service in compose["services"].values():
        assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"]), service["image"]


def test_compose_publishes_on_loopback_only(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service["ports"]]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_checks_health(compose: Any) -> None:
    # The node's own check is in its image.
    assert compose["services"]["orthanc"]["healthcheck"]["test"][0] == "CMD"
    assert compose["services"]["node"]["depends_on"]["orthanc"]["condition"] == "service_healthy"


def test_compose_holds_no_secret(compose: Any) -> None:
    for service in compose["services"].values():
        assert not [name for name in service["environment"] if SECRET.search(name)]


def test_compose_builds_from_what_is_there(compose: Any) -> None:
    build = compose["services"]["node"]["build"]

    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_compose_settings_are_accepted_and_the_two_know_one_another(
    compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicom_node.settings import load_settings

    for name, value in compose["services"]["node"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings(ROOT / "config" / "node.yaml")

    (pacs,) = settings.destinations
    orthanc = compose["services"]["orthanc"]["environment"]
    assert pacs.host in compose["services"]
    assert pacs.ae_title == orthanc["ORTHANC__DICOM_AET"]
    assert pacs.ae_title in settings.receive.calling_ae_titles
    (known,) = json.loads(orthanc["ORTHANC__DICOM_MODALITIES"]).values()
    assert known == [settings.receive.ae_title, "node", settings.receive.port]
    # The rules that come with the node deliver to a destination of this name.
    assert pacs.name == "pacs"


def test_the_gpu_file_only_adds_devices(compose: Any) -> None:
    gpu = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text(encoding="utf-8"))

    assert set(gpu["services"]) <= set(compose["services"])
    (device,) = gpu["services"]["node"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


def unit_values() -> dict[str, list[str]]:
    """The unit's keys; systemd allows a key several times, so a value is a list."""
    values: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values.setdefault(key, []).append(value)
    return values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("User", "dicom-node"),
        ("NoNewPrivileges", "true"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "true"),
        ("PrivateTmp", "true"),
        ("StateDirectory", "dicom-node"),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
        ("Restart", "on-failure"),
        ("CapabilityBoundingSet", ""),
        ("WantedBy", "multi-user.target"),
    ],
)
def test_the_unit_is_hardened(key: str, value: str) -> None:
    assert unit_values()[key] == [value]


def test_the_unit_writes_only_into_its_state_folder() -> None:
    assert unit_values()["Environment"] == ["DICOM_NODE__DATA_DIR=/var/lib/dicom-node"]


def test_the_unit_starts_a_command_that_exists() -> None:
    program, *words = shlex.split(unit_values()["ExecStart"][0])

    assert program.endswith("/.venv/bin/dicom-node")
    known_command(words)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed; the unit's keys are checked above")
    # The program is not installed here, and systemd would complain of that alone.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(unit_values()["ExecStart"][0], "/bin/true"), "utf-8")

    ended = subprocess.run([program, "verify", unit], capture_output=True, text=True, timeout=60, check=False)

    about_us = [line for line in ended.stderr.splitlines() if UNIT.name in line]
    assert about_us == []
    assert ended.returncode == 0, ended.stderr


def test_every_command_of_the_guide_exists() -> None:
    guide = (DEPLOY / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"(?m)^ {4}(?:\S*/)?dicom-node (.+)$", guide)

    assert commands
    for line in commands:
        known_command(shlex.split(line))
