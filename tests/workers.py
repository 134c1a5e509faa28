"""Which tests go to one process: those of a file, which share its fixtures.

Under pytest 9.2 the groups that pytest-xdist 3.8 makes by marks silently do nothing: pytest keeps a test's id in
`Node._id`, xdist writes to `Node._nodeid`. Ids as text are all that is read here.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling

SPLIT = "tests/zoo/test_families.py"
"""Its fixture is a model family each, `test_claim[llava-trace]`, which all tests of that family share."""

BESIDE = {"tests/test_shown.py": "tests/test_api.py"}
"""Files that take what another one has made."""

LONG = (
    "tests/remote/test_remote_study.py",
    "tests/report/test_browser.py",
    "tests/remote/test_served.py",
    "tests/remote/test_estimate.py",
    "tests/study/test_ray.py",
    "tests/study/test_golden.py",
    "tests/study/test_stored.py",
    "tests/report/test_page.py",
    "tests/report/test_report.py",
    "tests/analyses/test_findings.py",
    "tests/analyses/test_gpu.py",
    "tests/analyses/test_study_benchmark.py",
    "tests/study/test_study.py",
    "tests/report/test_similarity_page.py",
)
"""Files that take long for their number of tests: one of them at the end would keep a single process busy."""


def group(test: str) -> str:
    """The group of a test, by its id."""
    file, _, name = test.partition("::")
    if file == SPLIT:
        return f"{file}::{name.partition('[')[2].rstrip(']').partition('-')[0]}"
    return BESIDE.get(file, file)


class ByFile(LoadScopeScheduling):
    """Hands out groups, long ones first, then those of many tests."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        waiting = next((name for name in LONG if name in self.workqueue), None)
        if waiting:
            self.workqueue.move_to_end(waiting, last=False)
        super()._assign_work_unit(node)
