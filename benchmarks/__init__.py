"""Benchmarks that you can repeat: `python -m benchmarks.<name>`. docs/explanation/performance.md has the results."""
