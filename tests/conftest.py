"""One thread for each process of the suite, set before anything loads torch: small tensors gain nothing from more, the
cores are shared by what the tests start, and results do not depend on how many a machine has."""

import ctypes.util
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
if ctypes.util.find_library("cuda") is None:  # the driver's library: without a GPU, Triton's kernels are interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")
