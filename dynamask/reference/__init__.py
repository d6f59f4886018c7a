"""What every operator means, in plain PyTorch: never optimised, read by tests and benchmarks."""
