"""The real `ndif` server on this machine, serving the embedded model; see docs/real_ndif.md. No test runs it."""
