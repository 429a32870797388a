"""Loaded before any test: how asserts are shown, and how Triton's kernels run here."""

import os

import pytest
import torch

pytest.register_assert_rewrite("helpers")  # its asserts explain themselves too

# Triton reads this when it is imported, which torch_geometric does. Without a GPU its kernels run
# in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
