import json
import math
import os

import pytest
import torch
from helpers import DEVICE

from benchmarks import aims, gate, run, shapes
from benchmarks.baselines import METHODS, Method
from benchmarks.builders import LIBRARY, random_table
from benchmarks.case import Case, Prepared, Skipped
from benchmarks.measure import interleaved
from benchmarks.plot import crossover
from benchmarks.sweep import Record, Settings, Timing, sweep
from hsa_geometric import TreeIndex
from hsa_geometric.kernels import operator
from hsa_geometric.testing import ZOO, zoo

NOT_COMPILED = [name for name in METHODS if "flex" not in name and "compiled" not in name]


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def options(**changed):
    return {"heads": 2, "channels": 4, "dtype": torch.float32, "device": "cpu", "seed": 0} | changed


@pytest.mark.parametrize("leaves", [25, 256, 1000, 4096])
@pytest.mark.parametrize("name", shapes.SHAPES)
def test_a_shape_is_a_forest_of_the_size_asked_for(name, leaves):
    tree = TreeIndex.from_parent(shapes.build(name, leaves))
    size = tree.family_ptr.diff()
    if name == "molecules":
        assert tree.num_trees == leaves // 25
        assert tree.num_leaves == 25 * tree.num_trees
        assert tree.depth == 3
        children = size[tree.family_parent < tree.num_trees]
        assert (children == 5).all()
    else:
        assert (tree.num_trees, tree.num_leaves) == (1, leaves)
    if name.startswith("balanced"):
        assert size.max() == min(leaves, int(name.partition("-")[2] or 8))
        assert (tree.level[tree.leaf_ids] == tree.depth).all()
    if name == "ragged":
        assert size.min() >= 2 and size.max() <= 20
    if name == "deep":
        assert tree.depth == min(3000, leaves)


def test_a_ragged_tree_has_leaves_at_unequal_levels_and_follows_its_seed():
    one, same, other = (shapes.build("ragged", 500, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    tree = TreeIndex.from_parent(one)
    assert tree.level[tree.leaf_ids].unique().numel() > 1


def test_a_ragged_tree_may_be_of_any_size():
    for leaves in range(1, 80):
        tree = TreeIndex.from_parent(shapes.build("ragged", leaves))
        assert (tree.num_trees, tree.num_leaves) == (1, leaves)


def test_an_unknown_shape_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"one of .*'ragged'.* \(got 'bush'\)"):
        shapes.build("bush", 4)


def test_sibling_pairs_are_all_that_share_a_parent():
    case = Case(zoo("shuffled_forest"))
    parent = case.parent.tolist()
    expected = {
        (b, a)
        for a, up in enumerate(parent)
        for b, other in enumerate(parent)
        if up == other and a != b and up != a and other != b
    }
    assert {tuple(pair) for pair in case.siblings.t().tolist()} == expected
    assert case.siblings.shape[1] == len(expected)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("method", [m for m in NOT_COMPILED if METHODS[m].exact])
def test_a_method_that_claims_the_same_mathematics_agrees_with_the_oracle(method, name):
    gate.against_oracle(method, zoo(name), DEVICE if method == "hsa-triton" else "cpu")


def test_the_gate_is_green():
    assert gate.check(methods=NOT_COMPILED, leaves=300) == ([], [])


def test_the_gate_sees_a_wrong_baseline(monkeypatch):
    def wrong(case, grad):
        right = METHODS["hsa"].prepare(case, grad)
        return Prepared(lambda: 1.001 * right.function(), right.wrt)

    monkeypatch.setitem(METHODS, "recursive", Method(wrong, "", exact=True))
    found = gate.check(methods=["recursive"], leaves=100).wrong
    assert found
    assert all(line.startswith("recursive on") for line in found)


def test_a_broken_operator_prints_no_speed_and_exits_with_1(monkeypatch, capsys, tmp_path):
    right = operator.attention

    def broken(*args, **kwargs):
        out, evidence = right(*args, **kwargs)
        return 1.001 * out, evidence

    monkeypatch.setattr(operator, "attention", broken)
    out = tmp_path / "out.json"
    assert run.main(["--methods", "hsa", "--sizes", "64", "--threads", "1", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "gate is red" in printed.err
    assert not out.exists()


def test_a_tiny_run_writes_tables_json_and_a_picture(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gate, "check", lambda *args: gate.Verdict([], []))  # has its own tests
    out = tmp_path / "new" / "out.json"
    options = ["--threads=1", "--channels=8", "--seconds=0.001", f"--out={out}"]
    sizes = ["--shapes", "balanced", "molecules", "--sizes", "50", "100"]
    methods = [m for m in NOT_COMPILED if m != "hsa-triton"]  # too slow in the interpreter
    code = run.main([*options, *sizes, "--methods", *methods])
    assert code == 0
    printed = capsys.readouterr().out
    assert "### balanced, forward + backward" in printed
    assert "- **tree**" in printed and "has no gradient" in printed
    written = json.loads(out.read_text())
    assert written["machine"]["threads"] == 1
    assert len(written["records"]) == 2 * 2 * 2 * len(methods)
    for record in written["records"]:
        assert (record["timing"] is None) != (record["skipped"] is None), record
        if record["timing"]:
            timing = record["timing"]
            assert 0 < timing["q1"] <= timing["median"] <= timing["q3"]
    assert {r["method"] for r in written["records"] if r["skipped"]} == {"tree"}
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_peak_memory_is_of_the_call_alone():
    pytest.importorskip("resource", reason="resource is a Unix module")
    from benchmarks.memory import in_fresh_process

    cell = ("balanced", 20_000, "floor", "forward")
    ((_, found),) = in_fresh_process(
        [cell], options(heads=4, channels=32) | {"dtype": "float32"}, 1
    )
    if isinstance(found, str):
        pytest.skip(found)  # not on Linux
    assert found == pytest.approx(4 * 20_000 * 4 * 32 * 4, rel=0.1)


def test_a_method_that_fails_is_recorded_with_its_reason(monkeypatch):
    def cannot(case, grad):
        raise Skipped("too large for this")

    def fails(case, grad):
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setitem(METHODS, "sdpa", Method(cannot, ""))
    monkeypatch.setitem(METHODS, "gps", Method(fails, ""))
    records = sweep(
        {"star": [8]}, {"star": ["sdpa", "gps"]}, ["forward"], Settings(options(), memory=False)
    )
    assert [r.skipped for r in records] == ["too large for this", "RuntimeError: out of memory"]


def test_sizes_that_would_take_too_long_are_skipped(monkeypatch):
    how = Settings(options(), seconds=0, limit=1e-9, memory=False)
    small, large = sweep({"star": [8, 16]}, {"star": ["sdpa"]}, ["forward"], how)
    assert small.timing is not None
    assert large.timing is None
    assert "would take longer" in large.skipped


def test_calls_take_turns():
    seen = []
    timings, failed = interleaved(
        {c: lambda c=c: seen.append(c) for c in "ab"} | {"c": lambda: 1 / 0}, seconds=0, least=3
    )
    order = [c for c, before in zip(seen, [None, *seen], strict=False) if c != before]
    assert order == list("ab" * 4)  # warming up, and three rounds
    assert timings["a"].repeats == 3
    assert failed == {"c": "ZeroDivisionError: division by zero"}


def test_the_crossover_is_interpolated_between_sizes():
    def record(leaves, method, seconds):
        timing = Timing(seconds, seconds, seconds, 1)
        return Record("star", leaves, leaves, 0, 1, method, "forward", 0, timing)

    flat = [record(n, "sdpa", n * n / 1e6) for n in (100, 1000, 10_000)]
    line = [record(n, "hsa", 300 * n / 1e6) for n in (100, 1000, 10_000)]
    assert math.isclose(crossover(flat + line, "forward", "star"), 300)
    assert crossover(flat + line[:1], "forward", "star") is None


def test_aims_are_judged_and_those_too_large_left_out(monkeypatch):
    monkeypatch.setattr(aims, "in_fresh_process", lambda cells, *_: [(cells[0], 9 * 256 * 32)])
    table, rows = aims.run(Settings(options(), threads=1, seconds=0.001), largest=256)
    assert [row["what"].partition(" leaves")[0] for row in rows[:2]] == ["balanced, 64"] * 2
    assert {row["met"] for row in rows} <= {"yes", "no", "–"}
    (molecule,) = (row for row in rows if "microseconds" in row["what"])
    assert molecule["bound"] == "≤ 40" and float(molecule["measured"]) > 1
    assert (rows[-1]["measured"], rows[-1]["met"]) == ("2.00", "no")
    assert table.count("\n") == len(rows) + 1


def test_stages_add_up_to_a_forward_pass():
    from benchmarks.stages import STAGES, stages

    found = stages("ragged", 64, seconds=0.05)
    assert set(found) == {*STAGES, "rest", "all"}
    assert all(seconds > 0 for seconds in found.values())
    assert sum(found.values()) == pytest.approx(2 * found["all"])


# --- the GPU's runner, in the interpreter --------------------------------------------------------


def test_the_runner_for_gpus_judges_aims_and_writes_them(monkeypatch, capsys, tmp_path):
    from benchmarks import gpu

    monkeypatch.setattr(gate, "check", lambda *args: gate.Verdict([], []))  # tested above
    arguments = ["--device", DEVICE, "--shrink", "16384", "--seconds", "0"]
    assert gpu.main([*arguments, "--out", str(tmp_path / "gpu.json")]) == 0
    printed = capsys.readouterr().out
    assert "share of the floor" in printed and "peak extra memory" in printed
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert len(written["aims"]) == 9
    assert {row["met"] for row in written["aims"]} <= {"yes", "no"}
    assert all(row["share"] > 0 for row in written["times"])
    assert written["kernels"]


def test_the_runner_for_gpus_prints_no_speed_of_kernels_that_are_wrong(monkeypatch, capsys):
    from benchmarks import gpu
    from hsa_geometric.kernels.triton import sweeps

    original = sweeps.finish
    bias = iter(range(100))
    monkeypatch.setattr(sweeps, "finish", lambda *args: original(*args) + next(bias))
    monkeypatch.setattr(gate, "check", lambda *args: gate.Verdict([], []))
    assert gpu.main(["--device", DEVICE, "--shrink", "4096"]) == 1
    assert "two runs of balanced" in capsys.readouterr().err


def test_every_method_of_from_graph_is_timed_beside_its_library():
    text = random_table([60], list(LIBRARY))
    heads, _, row = [line.split("|")[1:-1] for line in text.splitlines()]
    assert [head.strip() for head in heads] == ["nodes", *LIBRARY]
    has_library = ["×" in cell for cell in row[1:]]
    assert has_library == [bool(names) for names in LIBRARY.values()]


def test_interaction_lists_are_measured(capsys):
    from benchmarks import lists

    lists.run(0.0, small=True)
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert [len(table.splitlines()) - 2 for table in tables] == [11, 2, 3, 1]
    assert tables[3].splitlines()[-1].endswith("| 0 |")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no Linux")
def test_whole_encoders_are_measured(capsys):
    from benchmarks.encoders import main

    gains = main((64,), turns=1, sizes=(2, 16, 2))
    assert set(gains) == {(64, "forward"), (64, "training step")}
    assert all(gain > 0 for gain in gains.values())
    assert capsys.readouterr().out.count("\n| 64 |") == 2
    assert torch.backends.mha.get_fastpath_enabled()
