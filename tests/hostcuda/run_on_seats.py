"""pytest, after the seats of a library took the place of the CPU's kernels.

``python run_on_seats.py LIBRARY SCHEMA[,SCHEMA] ARGUMENTS``
"""

import sys

import pytest
import torch

import dynamask.ops  # noqa: F401  (the CPU's kernels come first: the last one registered serves)

library, schemas, *arguments = sys.argv[1:]
torch.ops.load_library(library)
for schema in schemas.split(","):
    seats = torch._C._dispatch_dump(f"dynamask::{schema}").splitlines()
    serving = next(line for line in seats if line.startswith("CPU: "))
    if ".cu:" not in serving:
        sys.exit(f"{schema} is not served by the library: {serving}")
sys.exit(pytest.main(arguments))
