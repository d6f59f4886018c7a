"""Ours against what a user would pick instead; installed as ``dynamask.benchmarks``."""
