"""What every operator means, in plain PyTorch: never optimised, imported by tests and benchmarks."""
