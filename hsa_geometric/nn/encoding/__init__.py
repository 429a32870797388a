"""Encodings of what leaves are, and of where nodes stand among their siblings."""

from .domain import DOMAINS, DomainEncoding, Where, domain_encoding, register_domain
from .family import FamilyEncoding
from .graph import GraphEncoding, random_walk_positions, sibling_edges
from .inputs import Ids, TypedInput
from .keys import KeyEncoding
from .points import GridEncoding, PointEncoding
from .sequence import RankEncoding, SequenceEncoding
from .sets import SetEncoding

__all__ = [
    "DOMAINS",
    "DomainEncoding",
    "FamilyEncoding",
    "GraphEncoding",
    "GridEncoding",
    "Ids",
    "KeyEncoding",
    "PointEncoding",
    "RankEncoding",
    "SequenceEncoding",
    "SetEncoding",
    "TypedInput",
    "Where",
    "domain_encoding",
    "random_walk_positions",
    "register_domain",
    "sibling_edges",
]
