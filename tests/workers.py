"""Which tests go to one process: those of a file, which share its fixtures.

Under pytest 9.2 the groups that pytest-xdist 3.8 makes by marks silently do nothing: pytest keeps a test's id in
`Node._id`, xdist writes to `Node._nodeid`. Ids as text are all that is read here.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

SPLIT = "tests/zoo/test_families.py"
"""Its fixture is a model family each, `test_claim[llava-trace]`, which all tests of that family share."""

BESIDE = {"tests/test_shown.py": "tests/test_api.py"}
"""Files that take what another one has made."""


def group(test: str) -> str:
    """The group of a test, by its id."""
    file, _, name = test.partition("::")
    if file == SPLIT:
        return f"{file}::{name.partition('[')[2].rstrip(']').partition('-')[0]}"
    return BESIDE.get(file, file)


class ByFile(LoadScopeScheduling):
    """Hands out groups, those of many tests first."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
