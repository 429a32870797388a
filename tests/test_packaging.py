import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()

# Import names of all that is no dependency: extras, and what these bring.
OPTIONAL = re.findall(
    r"\w+",
    "datamol dendropy hdbscan markdown_it matplotlib meshio pandas pymetis pyvista rdkit regex "
    "scipy skfem sklearn tgp torch_scatter transformers trimesh vtk",
)


def imported_by(module):
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    run = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return {name.partition(".")[0] for name in found.split()}


def test_importing_the_package_imports_nothing_that_is_optional():
    # torch_geometric imports some of it where it is installed (scipy, torch_scatter, ...).
    found = imported_by("hsa_geometric") - imported_by("torch_geometric")
    assert "hsa_geometric" in found
    assert not found & set(OPTIONAL)


def test_classifiers_start_with_the_oldest_python():
    oldest = re.search(r'requires-python = ">=3\.(\d+)"', PYPROJECT).group(1)
    named = [int(minor) for minor in re.findall(r":: 3\.(\d+)", PYPROJECT)]
    assert named == list(range(int(oldest), int(oldest) + len(named)))


@pytest.mark.parametrize("which, python", [("OLDEST", 0), ("NEWEST", -1)])
def test_the_makefile_tests_the_oldest_and_the_newest_python(which, python):
    named = re.findall(r":: (3\.\d+)", PYPROJECT)
    makefile = (ROOT / "Makefile").read_text()
    assert f"PYTHON_{which} ?= $(call find-python,{named[python]})" in makefile


def test_the_citation_names_the_paper_and_its_url():
    citation = (ROOT / "CITATION.cff").read_text()
    paper = re.search(r'Paper = "(.*)"', PYPROJECT).group(1)
    assert f"url: {paper}" in citation
    for name in ("Amizadeh", "Abdali", "Li", "Koishida"):
        assert f"family-names: {name}\n" in citation


def test_the_table_of_data_has_its_source_and_licence_beside_it():
    text = (ROOT / "examples" / "data" / "README.md").read_text()
    assert all(word in text for word in ("freesolv.csv", "FreeSolv", "Apache License 2.0"))
