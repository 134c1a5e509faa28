"""The parts of the loopback server; see `server.py` beside this folder."""
