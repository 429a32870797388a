"""Loaded before any test: how Triton's kernels run here."""

import os

import torch

# Triton reads this when it is imported, which torch_geometric does. Without a GPU its kernels run
# in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
