"""Fixtures of the kernels' tests."""

import pytest

from hsa_geometric.native import INSTRUCTIONS, library


@pytest.fixture
def instructions():
    """Sets what the kernel may use, until the test is over; skips what the processor lacks."""
    before = library().hsa_instructions(-1)

    def choose(name):
        wanted = INSTRUCTIONS.index(name)
        if library().hsa_instructions(wanted) != wanted:
            # A lesser processor cannot run it; nothing is skipped where there is AVX-512.
            pytest.skip(f"no {name} here")

    yield choose
    library().hsa_instructions(before)
