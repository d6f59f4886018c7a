"""Triton kernels, run by Triton's interpreter on the CPU and compiled for GPUs that are not here.

Which of the two a kernel is for is settled when it is defined, so that takes two processes:
``TRITON_INTERPRET=1 pytest tests/kernels`` runs them, ``pytest tests/kernels`` compiles them.
"""

import os

INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = ["compiled/*"] if INTERPRETS else ["interpreted/*"]
