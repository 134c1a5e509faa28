"""What every test shares: no network, repeatable examples, and one report of the demo."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.command import run_xmi
from tests.night import NIGHT, times
from tests.quick import no_sync, one_glance, short_projections
from tests.shapes import check_shapes, unchecked

# Set before anything imports a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Self-checks are remembered for this run only, not among the user's own.
os.environ.setdefault("XMI_CACHE", tempfile.mkdtemp(prefix="xmi-tests-"))
# Tiny models gain nothing from threads, and on a busy machine threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

check_shapes()

# Times vary too much on a shared machine to fail on them; a failure must come back on the next run.
settings.register_profile("xmi", deadline=None, derandomize=True, print_blob=True, max_examples=times(100, 25))
settings.load_profile("xmi")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves tests of the night out by day."""
    if not NIGHT and "nightly" not in str(config.option.markexpr):
        late = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=late)
        items[:] = [item for item in items if item not in late]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps the tests of a file together when they run in several processes."""
    from tests.workers import ByFile

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """What a benchmark sets stays in its test: sums differ in their last bits by the number of threads."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _quick() -> None:
    """What is not under test takes no time."""
    no_sync()
    short_projections()
    one_glance()


SMALL_DEMO = ["run", "organism", "--base", "organism-llm", "--control", "organism-control", "--seeds", "1"]
SMALL_DEMO += ["--task", "country-capital", "--task", "country-currency", "--prompts", "8", "--points", "8"]


@pytest.fixture(scope="session")
def report_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report under test: the file named by XMI_REPORT, else that of one run.

    By night that is `xmi demo`; by day a run of the same models on two of its tasks, with fewer prompts.
    """
    if named := os.environ.get("XMI_REPORT"):
        path = Path(named).resolve()
        if not path.is_file():
            pytest.fail(f"XMI_REPORT names {path}, which is no file.")
        return path
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # all processes take the same one
        shared = shared.parent
    out = shared / "demo"
    with FileLock(f"{out}.lock"):
        if not list(out.rglob("report.html")):
            done = run_xmi(*(["demo"] if NIGHT else SMALL_DEMO), "--out", str(out))
            if done.returncode:
                pytest.fail(f"The run ended with exit code {done.returncode}:\n{done.stdout}\n{done.stderr}")
    found = sorted(out.rglob("report.html"))
    if len(found) != 1:
        pytest.fail(f"Expected one report.html below {out}, found {[str(f) for f in found]}.")
    return found[0]


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Calls end as they do for users: xmi's own refusals, not the checker's."""
    with unchecked():
        yield
