import re

import pytest
import torch

from hsa_geometric import TreeIndex
from hsa_geometric.nn.encoding import (
    DOMAINS,
    DomainEncoding,
    SequenceEncoding,
    SetEncoding,
    Where,
    domain_encoding,
    register_domain,
)
from hsa_geometric.testing import zoo


@pytest.fixture
def registry():
    before = dict(DOMAINS)
    yield DOMAINS
    DOMAINS.clear()
    DOMAINS.update(before)


def where(**given):
    return Where(TreeIndex.from_parent(zoo("two_levels")), **given)


def test_the_domains_of_the_paper_are_there():
    names = {"set", "sequence", "ranks", "grid", "points", "key", "graph"}
    assert names <= set(DOMAINS)
    for name in names:
        encoding = domain_encoding(name)
        assert isinstance(encoding, DomainEncoding)
        assert repr(encoding) == f"{type(encoding).__name__}({encoding.out_channels})"


def test_options_go_to_the_encoding():
    assert domain_encoding("sequence", out_channels=6).out_channels == 6


def test_an_encoding_that_is_made_stays_as_it_is():
    encoding = SequenceEncoding(4)
    assert domain_encoding(encoding) is encoding


def test_an_own_domain_is_found_by_its_name(registry):
    @register_domain("own")
    class Own(DomainEncoding):
        out_channels = 1

        def forward(self, where):
            return where.given("own", 1)

    tree_pos = torch.randn(13, 2)
    assert torch.equal(domain_encoding("own")(where(tree_pos=tree_pos)), tree_pos[:, :1])


def test_defining_a_domain_again_replaces_it_and_another_one_is_refused(registry):
    register_domain("sequence")(SequenceEncoding)  # as reloading its module does
    with pytest.raises(
        ValueError,
        match=r"the name of a new domain \(got 'sequence', which SequenceEncoding has\)",
    ):
        register_domain("sequence")(SetEncoding)
    assert DOMAINS["sequence"] is SequenceEncoding


def test_what_is_no_domain_is_named():
    with pytest.raises(ValueError, match=r"one of \['graph', .*'set'\] \(got 'circle'\)"):
        domain_encoding("circle")
    with pytest.raises(TypeError, match=r"a name or a DomainEncoding \(got int\)"):
        domain_encoding(3)


def test_rows_are_those_of_the_nodes_asked_for():
    rows = torch.randn(13, 3)
    node = torch.tensor([4, 0])
    assert torch.equal(where().of(rows), rows)
    assert torch.equal(where(node=node).of(rows), rows[node])
    assert torch.equal(where(node=node, tree_pos=rows).given("grid", 2), rows[node][:, :2])


def test_missing_positions_are_named_with_their_domain():
    with pytest.raises(
        ValueError,
        match=re.escape(
            "Expected 'tree_pos' or 'pos' for the domain 'grid', which needs a position of each "
            "node within its family (got None)"
        ),
    ):
        where().given("grid", 2, " or 'pos'")
    with pytest.raises(
        ValueError,
        match=re.escape("'tree_pos' to have at least 3 columns for the domain 'points' (got 2)"),
    ):
        where(tree_pos=torch.randn(13, 2)).given("points", 3)


def test_a_base_class_encodes_nothing():
    with pytest.raises(NotImplementedError):
        DomainEncoding()(where())
