"""Where kernels run: jobs on an NDIF host, kept on disk until their results are stored."""

from xmi.remote.backend import RemoteBackend
from xmi.remote.host import Host
from xmi.remote.identity import fingerprint, model_key
from xmi.remote.job_store import Ledger
from xmi.remote.jobs import Jobs
from xmi.remote.preflight import Check, Preflight, preflight

__all__ = ["Check", "Host", "Jobs", "Ledger", "Preflight", "RemoteBackend", "fingerprint", "model_key", "preflight"]
