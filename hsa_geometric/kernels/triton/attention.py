"""Hierarchical self-attention with this backend's operators."""

from __future__ import annotations

from functools import partial

from ..eager.attention import Operators
from ..eager.attention import hierarchical_attention as assembled
from .evidence import evidence
from .siblings import siblings
from .sweeps import mix, scan_down, up

OPERATORS = Operators(up, siblings, evidence, scan_down, mix, seed_device=None)

hierarchical_attention = partial(assembled, operators=OPERATORS)
