"""Processes that begin as copies of one that has the libraries are what interpreters would be."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.command import run, start


def test_it_has_the_libraries_and_imports_xmi_itself(tmp_path: Path) -> None:
    code = (
        "import os, sys; print(sorted(name for name in sys.modules if name.partition('.')[0] in ('xmi', 'analyses'))); "
        "print('torch' in sys.modules, sys.argv[1:], os.getcwd(), os.environ['MARK'], __name__); import mine; 1 / 0"
    )
    (tmp_path / "mine.py").write_text("print('from its path')")
    environment = {**os.environ, "MARK": "here", "PYTHONPATH": str(tmp_path)}
    done = run(code, "a", "b c", cwd=tmp_path, environment=environment)
    assert done.stdout.splitlines() == ["[]", f"True ['a', 'b c'] {tmp_path} here __main__", "from its path"]
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(("code", "ended"), [("", 0), ("raise SystemExit(7)", 7), ("import os; os.abort()", -6)])
def test_it_ends_as_an_interpreter_ends(code: str, ended: int) -> None:
    assert run(code).returncode == ended


def test_it_can_be_watched_and_interrupted() -> None:
    code = "import time\ntry: print('begun', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: print('stopped')"
    with start(code, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.poll() is None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("stopped\n", "")
    assert process.returncode == 0
    with pytest.raises(TimeoutError, match=r"did not end within 0\.2 s"):
        run("import time; time.sleep(60)", timeout=0.2)
