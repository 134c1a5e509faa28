"""Versions of the libraries that numbers depend on."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Returns the versions of xmi and the libraries that numbers depend on."""
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {}
    for package in ("xmi", "torch", "transformers", "nnsight", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a checkout that is not installed
            found[package] = "unknown"
    return found
