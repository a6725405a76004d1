"""Settings for all tests."""

import os

# Before PyTorch is loaded: where two threads share a busy machine, waiting actively makes small operators crawl.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from devices import run_where_asked
from hypothesis import settings

# No deadline: other work on the machine must not fail a test. In CI the same examples each time.
settings.register_profile("fastforget", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("fastforget")

# Before the tests' modules, which make tensors as they are imported.
run_where_asked()
