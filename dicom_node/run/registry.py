"""The algorithms there are, read from their manifests. Never imports torch: listing and routing are instant."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicom_node.algorithm import Code
from dicom_node.errors import ConfigurationError
from dicom_node.model.result import AlgorithmIdentity
from dicom_node.model.uids import derive_uid

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "algorithms"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeEntry(_Part):
    """A coded concept in a manifest."""

    value: str
    scheme: str
    meaning: str


class Weights(_Part):
    """One weights file of an algorithm."""

    file: str
    """Path inside the algorithm's folder."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Checked at load."""


class Accepts(_Part):
    """What the algorithm takes, as far as headers and counts tell; the algorithm itself checks the pixels."""

    Modality: tuple[str, ...] = ()
    """Empty: any."""
    min_slices: int = 1


class Priors(_Part):
    """That the algorithm wants to be compared with a prior study of the patient."""

    minimum_days: int = Field(1, ge=1)
    """The prior is at least so many days older; a site may ask for more (``priors.minimum_days``)."""
    caution: str = ""
    """What a reader of a change must know: how much two measurements of the same patient may differ. Stands in the
    report beside each comparison."""


class Manifest(_Part):
    """``algorithm.yaml``."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """The folder's name."""
    name: str = Field(min_length=1, max_length=64)
    """For people; stands in every result."""
    version: str = Field(min_length=1, max_length=64)
    description: str
    input: Literal["volume", "cine", "frames"]
    """``volume``: one series of parallel slices at even steps. ``cine``: a study's beating short-axis stack, from
    all its series that the rule wants. ``frames``: a study's ultrasound images and clips, from all such series."""
    accepts: Accepts = Accepts()
    procedure: CodeEntry
    """How the images were made: the report's Procedure Reported (PS3.16 CID 100)."""
    time_limit_s: float = Field(gt=0)
    """A run that takes longer is stopped, and its worker replaced."""
    weights: dict[str, Weights] = {}
    priors: Priors | None = None
    """None: reports of this algorithm stand alone. The measurements say which of them are compared."""


@dataclass(frozen=True)
class Algorithm:
    """An algorithm's manifest and where it lives."""

    manifest: Manifest
    folder: Path

    @property
    def identity(self) -> AlgorithmIdentity:
        """What made a result: version and weights included."""
        m = self.manifest
        digests = "".join(m.weights[name].sha256 for name in sorted(m.weights))
        weights_digest = hashlib.sha256(digests.encode()).hexdigest() if digests else ""
        device_uid = derive_uid("device", m.id, m.version, weights_digest)
        return AlgorithmIdentity(m.id, m.name, m.version, weights_digest, device_uid)

    @property
    def accepts(self) -> dict[str, Any]:
        """What routing has to know of it."""
        return {**self.manifest.accepts.model_dump(), "input": self.manifest.input}

    @property
    def procedure(self) -> Code:
        """The report's Procedure Reported."""
        p = self.manifest.procedure
        return Code(p.value, p.scheme, p.meaning)


def load_registry(folder: Path | None = None) -> dict[str, Algorithm]:
    """Read every ``<folder>/<id>/algorithm.yaml`` (None: the folder beside the package).

    Raises:
        ConfigurationError: names the file, the key and what is accepted.
    """
    folder = folder or DEFAULT_FOLDER
    if not folder.is_dir():
        raise ConfigurationError(f"run.algorithms_dir: {folder} is not a folder")
    found: dict[str, Algorithm] = {}
    for file in sorted(folder.glob("*/algorithm.yaml")):
        manifest = read_manifest(file)
        found[manifest.id] = Algorithm(manifest, file.parent)
    return found


def read_manifest(file: Path) -> Manifest:
    """Read one manifest.

    Raises:
        ConfigurationError: names the file, the key and what is accepted.
    """
    try:
        values: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        manifest = Manifest.model_validate(values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigurationError(f"{file}: cannot be read, or is not YAML in UTF-8: {e}") from e
    except ValidationError as e:
        lines = (f"{file}: {'.'.join(map(str, x['loc'])) or '(whole file)'}: {x['msg']}" for x in e.errors())
        raise ConfigurationError("\n".join(lines)) from e
    if manifest.id != file.parent.name:
        raise ConfigurationError(f"{file}: id: must be the folder's name, {file.parent.name!r}, not {manifest.id!r}")
    for name, weights in manifest.weights.items():
        if not (file.parent / weights.file).is_file():
            raise ConfigurationError(f"{file}: weights.{name}.file: {weights.file} is not in the folder")
    return manifest
