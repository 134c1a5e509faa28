"""Namespaces of its own for the server: its ports are nobody else's, and nothing of it outlives them.

`ndif` and Ray listen on all addresses of the machine, and let whoever reaches them run code. In a network namespace
there is only loopback, and in a process namespace all processes end with the first: Ray's daemons too, and however this
script ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from analyses.real_ndif.server import ServerError


def entering() -> list[str]:
    """The command before a command that is to run in namespaces of its own.

    Returns:
        `unshare` and its flags.

    Raises:
        ServerError: This system has no such namespaces, or does not permit them.
    """
    missing = [tool for tool in ("unshare", "ip") if shutil.which(tool) is None]
    if missing:
        raise ServerError(
            f"The server needs a network namespace of its own, and {' and '.join(missing)} of Linux' util-linux and "
            "iproute2 to make one; not found. It listens on all addresses and runs what it is sent, so it is not "
            "started without."
        )
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *user, "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    tried = subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    if tried.returncode:
        raise ServerError(
            "The server needs a network namespace of its own, and this system does not permit one "
            f"({tried.stderr.strip()}). It listens on all addresses and runs what it is sent, so it is not started "
            "without. Containers usually need --cap-add SYS_ADMIN; elsewhere see kernel.unprivileged_userns_clone and "
            "AppArmor's unprivileged_userns."
        )
    return command
