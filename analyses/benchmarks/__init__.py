"""What xmi costs compared with the bare model: `python -m analyses.benchmarks.overhead` writes `docs/overhead.md`."""
