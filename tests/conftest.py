"""Loaded before any test: how asserts are shown, and how Triton's kernels run here."""

import os
import random

import pytest
import torch

pytest.register_assert_rewrite("helpers")  # its asserts explain themselves too

# Triton reads this when it is imported, which torch_geometric does. Without a GPU its kernels run
# in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser):
    parser.addoption("--sample", type=int, default=1, help="one slow test in so many")
    parser.addoption("--sample-seed", type=int, default=0, help="which of them")


def pytest_collection_modifyitems(config, items):
    """What runs in Triton's interpreter is slow, as a test may be that says so."""
    draw, most = random.Random(config.getoption("sample_seed")), config.getoption("sample")
    left = []
    for item in items:
        given = getattr(getattr(item, "callspec", None), "id", "").split("-")
        if "triton" in (*given, item.path.parent.name):
            item.add_marker("slow")
        if item.get_closest_marker("slow") and draw.randrange(most):
            left.append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


@pytest.fixture(scope="session")
def processes():
    from processes import Processes  # beside the tests that ask for it, in tests/distributed

    pool = Processes()
    yield pool
    pool.stop()
