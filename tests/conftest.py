"""Settings for all tests."""

import os

# Set before PyTorch is loaded: on a busy machine, threads that wait actively slow small operators down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# On processors with AVX-512 for float16, F.conv2d of PyTorch 2.13 ends the process for some float16 inputs with one
# group per channel, for example x [5, 6, 17, 1], w [6, 1, 1, 1], stride (1, 4), padding (1, 3), dilation (3, 2).
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

from browser import chromium, opened, pictured  # noqa: F401 (fixtures, each defined once)
from devices import run_where_asked
from hypothesis import settings

# There is no deadline: other work on the machine must not fail a test. In CI, examples are the same each time.
settings.register_profile("fastforget", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("fastforget")

# Called before test modules are imported, because they make tensors.
run_where_asked()
