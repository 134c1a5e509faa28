"""Importing this imports what xmi imports, and not xmi: done once, for all processes that `tests.command` starts."""

from __future__ import annotations

import sys
import warnings

import xmi
from tests.quick import no_sync, short_projections

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in xmi.__all__:
        getattr(xmi, name)
    import xmi.cli
    import xmi.report

no_sync()
short_projections()

# Each process imports xmi itself, as it stands on its own path.
for name in [name for name in sys.modules if name.partition(".")[0] == "xmi"]:
    del sys.modules[name]
