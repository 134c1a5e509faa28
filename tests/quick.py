"""What tests do without: waiting for a disk, and computing again what is known.

Nothing of it is what a test is about: where one is, it takes the function itself, `function.__wrapped__`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.night import NIGHT


def no_sync() -> None:
    """Files are not forced onto the disk, which takes milliseconds for each; what a test damages, it damages itself."""

    @wraps(os.fsync)
    def nothing(descriptor: int) -> None:
        os.fstat(descriptor)  # a closed file is still an error

    os.fsync = nothing


def short_projections() -> None:
    """t-SNE of the same points is computed once, by day in 250 steps of 1000.

    Small studies spend more time on it than on their model.
    """
    from sklearn.manifold import TSNE

    known: dict[tuple[str, bytes], Any] = {}
    fit = TSNE.fit_transform

    @wraps(fit)
    def once(self: TSNE, points: Any) -> Any:
        if not NIGHT:
            self.set_params(max_iter=250)
        key = repr(sorted(self.get_params().items())), points.tobytes()
        if key not in known:
            known[key] = fit(self, points)
        return known[key].copy()

    TSNE.fit_transform = once


def one_glance() -> None:
    """What studies see of a model without its weights is read once, while the files of its folder are the same."""
    from xmi.model.identity import stamps
    from xmi.model.source import EMBEDDED
    from xmi.study import estimate, prepare

    known: dict[str, Any] = {}

    @wraps(prepare.glance)
    def seen(one: Any, loading: Any) -> Any:
        look: Callable[..., Any] = seen.__wrapped__
        inside = files("xmi") / "data" / "organism" / EMBEDDED.get(one.source, "-")
        folder = Path(str(inside if one.source in EMBEDDED else one.source))
        if not folder.is_dir():
            return look(one, loading)
        key = repr((one.source, one.revision, sorted(loading.items(), key=str), stamps(folder)))
        if key not in known:
            known[key] = look(one, loading)
        return known[key]

    prepare.glance = estimate.glance = seen
