import io
import re

import pytest
from _progress import progress_bar
from helpers import EXAMPLES


class Terminal(io.StringIO):
    def isatty(self):
        return True


def written(file, steps=1200, **options):
    with progress_bar(total=steps, desc="model", file=file, **options) as bar:
        for step in range(steps):
            bar.set_postfix_str(f"step {step}", refresh=False)
            bar.update()
    return file.getvalue()


def test_a_bar_of_1200_quick_steps_writes_its_first_and_last_line_to_a_file():
    lines = written(io.StringIO()).split("\n")
    assert [line for line in lines if line] == [lines[0], lines[1]]
    assert "0/1200" in lines[0] and "1200/1200" in lines[1] and "step 1199" in lines[1]
    assert all("\r" not in line for line in lines)


def test_where_steps_take_long_a_line_is_written_every_ten_seconds(monkeypatch):
    now = 0.0
    bar = progress_bar(total=60, file=io.StringIO())
    bar.start_t = bar.last_print_t = now
    monkeypatch.setattr(bar, "_time", lambda: now)
    for _ in range(60):
        now += 1.0
        bar.update()
    bar.close()
    counts = re.findall(r"(\d+)/60", bar.fp.getvalue())
    assert counts[0] == "0" and [int(c) for c in counts[1:]] == [10, 20, 30, 40, 50, 60, 60]


def test_a_disabled_bar_writes_nothing():
    assert written(io.StringIO(), disable=True) == ""


def test_on_a_terminal_the_bar_stays_on_its_line():
    text = written(Terminal())
    assert text.count("\n") == 1 and text.startswith("\r")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[!_]*.py")), ids=lambda p: p.stem)
def test_every_example_uses_the_shared_bar_and_never_forces_a_line(path):
    text = path.read_text()
    assert "progress_bar(" in text and "tqdm" not in text
    assert all("refresh=False" in call for call in re.findall(r"set_postfix.*", text))
