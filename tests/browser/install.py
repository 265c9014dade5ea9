"""Fetches what the viewer test needs from npm into a cache: two versions of OHIF and Playwright's core.

``python -m tests.browser.install``; the tests call it too. Each package is fetched once and its digest checked.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

# ruff: noqa: T201, E501
PACKAGES: Mapping[str, str] = {
    "@ohif/app@3.13.2": "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
    "@ohif/app@3.12.10": "0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA==",
    "playwright-core@1.65.1": "hqPpz7blSMPxWVdoeE1yiBSzXsKiVOd2k+kjCvmUywD2GPO2Dd9HfcWnq9NN0GHbNZDFgZ9JfBFr+X5/BLo0qw==",
}
"""Name and version, and the SHA-512 of the archive as the registry states it."""

NEW_OHIF, OLD_OHIF, PLAYWRIGHT = PACKAGES


class NotInstalled(Exception):
    """A package cannot be had; the message says why."""


def cache_folder() -> Path:
    """Where packages are kept, outside the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dicom_node" / "browser"


def installed(package: str) -> Path:
    """The folder of an unpacked package, which is fetched if it is not there.

    Raises:
        NotInstalled: npm is absent, the registry cannot be reached, or the archive is not the one expected.
    """
    folder = cache_folder() / package.replace("/", "_")
    if not (folder / "package.json").is_file():
        _fetch(package, folder)
    return folder


def _fetch(package: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstalled("npm is not installed (Debian packages: nodejs, npm)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        aside = Path(name)
        command = [npm, "pack", "--silent", "--pack-destination", name, package]
        try:
            done = subprocess.run(command, cwd=name, capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired as e:
            raise NotInstalled(f"npm could not fetch {package} within 300 s") from e
        archives = list(aside.glob("*.tgz"))
        if done.returncode or not archives:
            raise NotInstalled(f"npm could not fetch {package}: {done.stderr.strip()[-300:]}")
        digest = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        if digest != PACKAGES[package]:
            raise NotInstalled(f"{package} is not the archive that the tests were written for: SHA-512 {digest}")
        with tarfile.open(archives[0]) as archive:
            # Debian 12's Python may not know it yet.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            archive.extractall(aside / "unpacked")
        try:
            (aside / "unpacked" / "package").rename(folder)
        except OSError:
            if not (folder / "package.json").is_file():  # otherwise another run was quicker
                raise


def main() -> int:
    """Fetch all; 1 if one cannot be had."""
    try:
        for package in PACKAGES:
            print(f"{package}: {installed(package)}")
    except NotInstalled as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
