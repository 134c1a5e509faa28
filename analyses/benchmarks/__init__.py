"""What xmi costs beside the bare model: `python -m analyses.benchmarks.overhead` writes `docs/overhead.md`."""
