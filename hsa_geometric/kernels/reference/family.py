"""A tree as lists of node ids, read from the caller's parent vector alone."""

from __future__ import annotations

from torch import Tensor


class Family:
    """The tree as lists of node ids."""

    def __init__(self, parent: Tensor):
        self.parent = parent.tolist()
        self.children: list[list[int]] = [[] for _ in self.parent]
        self.roots = []
        for node, above in enumerate(self.parent):
            if node == above:
                self.roots.append(node)
            else:
                self.children[above].append(node)
        self.top_down = list(self.roots)
        for node in self.top_down:  # grows while it is read
            self.top_down.extend(self.children[node])
        self.leaves = [node for node, below in enumerate(self.children) if not below]
        row = {node: i for i, node in enumerate(self.leaves)}
        self.rows: list[list[int]] = [[row[n]] if n in row else [] for n in range(len(parent))]
        for node in reversed(self.top_down):
            for child in self.children[node]:
                self.rows[node].extend(self.rows[child])
