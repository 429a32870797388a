"""Loaded before any test: how asserts are shown, and how Triton's kernels run here."""

import os

import pytest
import torch

pytest.register_assert_rewrite("helpers")  # its asserts explain themselves too

# Triton reads this when it is imported, which torch_geometric does. Without a GPU its kernels run
# in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def processes():
    from processes import Processes  # beside the tests that ask for it, in tests/distributed

    pool = Processes()
    yield pool
    pool.stop()
