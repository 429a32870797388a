import re

import pytest
from helpers import EXAMPLES

LONG = [path for path in sorted(EXAMPLES.glob("[!_]*.py")) if path.stem != "distributed"]


@pytest.mark.parametrize("path", LONG, ids=lambda p: p.stem)
def test_every_example_uses_the_shared_bar_and_never_forces_a_line(path):
    text = path.read_text()
    assert ("progress_bar(" in text or "compare(" in text) and "tqdm" not in text
    assert all("refresh=False" in call for call in re.findall(r"set_postfix.*", text))
