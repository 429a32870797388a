"""A family of 20,000 needs memory for its rows, not for its pairs."""

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource", reason="resource is a Unix module")

SCRIPT = """
import resource
import torch
from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import star, zoo, attention_inputs

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB

torch.set_num_threads(1)
small = TreeIndex.from_parent(zoo("forest"))
q, k, v = (x.requires_grad_() for x in attention_inputs(small, dtype=torch.float32).values())
hierarchical_attention(q, k, v, small).sum().backward()  # so that nothing is left to load
before = peak()
tree = TreeIndex.from_parent(star(20_000))
q, k, v = torch.randn(3, 20_000, 1, 16).unbind(0)
learned = [x.clone().requires_grad_() for x in (q, k, v)]
out = hierarchical_attention(*learned, tree)
out.square().mean().backward()
assert all(x.grad.isfinite().all() and x.grad.any() for x in learned)
grew = peak() - before

# The result, on some of its rows.
rows = torch.arange(0, 20_000, 1999)
s = torch.einsum("ihd,jhd->hij", q[rows], k) / 4
expected = torch.einsum("hij,jhd->ihd", s.softmax(-1), v)
torch.testing.assert_close(out.detach()[rows], expected)
print(before, grew)
"""


def test_a_star_of_20_000_leaves_runs_forward_and_backward_within_2_gb():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, grew = map(float, done.stdout.split())
    assert before + grew < 2000, f"{before + grew:.0f} MiB in all"
    # One matrix of all pairs would be 1,526 MiB.
    assert grew < 400, f"{grew:.0f} MiB beside the {before:.0f} MiB of an idle interpreter"
