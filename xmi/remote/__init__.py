"""Where kernels run: jobs on an NDIF host, kept on disk until their results are stored."""

from xmi.remote.host import Host
from xmi.remote.identity import fingerprint, model_key
from xmi.remote.job_store import Ledger
from xmi.remote.jobs import Jobs
from xmi.remote.preflight import Check, Preflight, preflight
from xmi.remote.served import Served

__all__ = ["Check", "Host", "Jobs", "Ledger", "Preflight", "Served", "fingerprint", "model_key", "preflight"]
