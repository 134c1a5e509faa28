"""How a command ends: results on standard output, one message for what went wrong, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path

import typer

from xmi.errors import XmiError
from xmi.terminal import close_streams, open_streams, quiet_libraries, say

UNFORESEEN = 70
"""Exit code of an error that nobody thought of (`EX_SOFTWARE`)."""


def run_app(app: typer.Typer) -> None:
    """Runs the command line; errors that xmi raises on purpose end in one message and exit code 1."""
    quiet_libraries()
    open_streams()
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    try:
        code = _run(app)
    except BrokenPipeError:  # who read what is printed went away
        code = 1
    sys.exit(code if close_streams() else code or 1)


def _run(app: typer.Typer) -> int:
    """Runs the command and returns its exit code."""
    try:
        return int(app(standalone_mode=False) or 0)
    except XmiError as error:
        say(f"error ({type(error).__name__}): {error}")
        return 1
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:  # a disk that is full, a file that went away
        say(f"error ({type(error).__name__}): {error}")
        return 1
    except Exception as error:  # typer's own: it has no public class for all of them
        if not hasattr(error, "format_message"):
            return _unforeseen(error)
        context = getattr(error, "ctx", None)
        usage = "" if context is None else context.get_usage()
        say("\n".join(part for part in (usage, f"error: {error.format_message()}" if str(error) else "") if part))
        return int(getattr(error, "exit_code", 2))


def _unforeseen(error: Exception) -> int:
    """Says what nobody thought of in two lines; the whole of it on demand.

    Raises:
        Exception: The error itself, where the environment asks for it.
    """
    if os.environ.get("XMI_TRACEBACK"):
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "xmi" in Path(frame.filename).parts] or frames
    where = f"{Path(ours[-1].filename).name}, line {ours[-1].lineno}"
    first = next(iter(str(error).strip().splitlines()), "")
    say(f"error ({type(error).__name__}): {first}")
    say(f"This was not foreseen (at {where}). XMI_TRACEBACK=1 shows all of it; a report of it is welcome.")
    return UNFORESEEN
