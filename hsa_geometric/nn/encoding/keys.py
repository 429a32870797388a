"""Families of named members: the values of a dict."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ...functional.options import check_integer
from .domain import DomainEncoding, Where, register_domain


def text_features(name: str, channels: int) -> Tensor:
    """``[channels]`` of length 1: its runs of three characters, each in a direction of its own.

    Names that share runs ("first_name", "last_name") are alike. Always the same, on any machine.
    """
    text = f"  {name.lower()} "
    total = torch.zeros(channels)
    for i in range(len(text) - 2):
        seed = zlib.crc32(text[i : i + 3].encode())
        total += torch.randn(channels, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(total, dim=0)


@register_domain("key")
class KeyEncoding(DomainEncoding):
    r"""Features of names, from their text and, of the names declared, learned ones beside it.

    The place is the id of a name, in column 0 of :obj:`tree_pos`: its index in :obj:`names`.

    Args:
        names: the names there may be, or how many there are, if their text means nothing.
        out_channels: number of features. (default: :obj:`16`)
    """

    def __init__(self, names: Sequence[str] | int = 256, out_channels: int = 16):
        super().__init__()
        check_integer(out_channels, "out_channels", 1)
        texts = [] if isinstance(names, int) else names
        if isinstance(texts, (str, bytes)) or not all(isinstance(name, str) for name in texts):
            raise TypeError(f"Expected 'names' to be a sequence of strings (got {names!r})")
        self.names = None if isinstance(names, int) else tuple(names)
        num = names if isinstance(names, int) else len(names)
        check_integer(num, "names", 1)
        self.out_channels = out_channels
        text = torch.zeros(num, out_channels)
        if self.names is not None:
            text = torch.stack([text_features(name, out_channels) for name in self.names])
        self.text: Tensor
        self.register_buffer("text", text, persistent=False)
        self.table = torch.nn.Embedding(num, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the learned vectors anew, small beside the text's where there is one."""
        std = 1.0 if self.names is None else 0.1
        torch.nn.init.normal_(self.table.weight, std=std / self.out_channels**0.5)

    def forward(self, where: Where) -> Tensor:
        """Features ``[n, out_channels]``."""
        key = where.given("key", 1)[:, 0].long()
        num = self.table.num_embeddings
        if not torch.compiler.is_compiling() and ((key < 0) | (key >= num)).any():
            bad = int(key[(key < 0) | (key >= num)][0])
            raise ValueError(
                f"Expected 'tree_pos' to hold ids of keys in [0, {num - 1}] for the domain 'key' "
                f"(got {bad})"
            )
        out: Tensor = self.table(key) + self.text[key]
        return out
