"""Benchmarks: figures as ratios to a baseline in the same run; no test of the suite."""
