"""Measurement: runs benchmarks through lmms-eval and reports accuracy, actual visual tokens and time."""
