"""Shards in files: each process reads its own, and what is wrong is said by all."""

import pytest
import torch
import work_files as work

from hsa_geometric import from_points
from hsa_geometric.distributed import load_shard, save_shards

pytestmark = pytest.mark.xdist_group("processes")  # which are started once


@pytest.mark.parametrize("size", [1, 3])
def test_what_was_saved_is_loaded_and_attends_as_the_whole_does(processes, size, tmp_path):
    assert processes.run(work.round_trip, size, str(tmp_path / "new")) == [True] * size
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [f"shard-{rank:05}-of-{size:05}.pt" for rank in range(size)]


def test_one_process_writes_the_shards_of_all(processes, tmp_path):
    save_shards(work.whole(), tmp_path, 2)
    save_shards(work.whole(), tmp_path, 3)
    for size in (2, 3):
        rows = processes.run(work.load, size, str(tmp_path))
        assert sorted(row for part in rows for row in part) == list(range(27)) and all(rows)


def test_a_file_is_no_longer_than_its_shard(tmp_path):
    h = from_points(torch.rand(4000, 3), x=torch.rand(4000, 16))
    save_shards(h, tmp_path, 4)
    whole = sum(value.nbytes for value in (h.x, h.pos, h.parent))
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 0.4 * whole


def test_faults_of_one_process_are_said_by_all_with_process_and_reason(processes, tmp_path):
    save_shards(work.whole(), tmp_path, 2)
    for found in processes.run(work.load, 3, str(tmp_path)):
        assert "process 0 of 3" in found
        assert "got shards of 2 processes; start as many, or save anew for 3" in found

    first, second = sorted(tmp_path.iterdir())
    content = second.read_bytes()
    second.write_bytes(content[:300])
    for found in processes.run(work.load, 2, str(tmp_path)):
        assert "process 1 of 2" in found and "cannot be read" in found
    second.write_bytes(first.read_bytes())
    for found in processes.run(work.load, 2, str(tmp_path)):
        assert f"process 1 of 2 in '{tmp_path}' (got in {second.name} the shard of" in found
    second.unlink()
    for found in processes.run(work.load, 2, str(tmp_path)):
        assert "process 1 of 2" in found and f"got no file {second.name}" in found


def test_what_cannot_be_saved_is_refused(processes, tmp_path):
    for errors in processes.run(work.refused, 2, str(tmp_path / "none")):
        assert len(errors) == 3 and "(got Hierarchy; save_shards cuts" in errors[0]
        assert "'thing' to hold tensors, numbers or strings (got object" in errors[2]
    assert not any(tmp_path.rglob("*"))  # no half files
    with pytest.raises(TypeError, match=r"'h' to be a whole Hierarchy \(got int"):
        save_shards(3, tmp_path, 2)
    with pytest.raises(ValueError, match="'num_processes' to be at least 1"):
        save_shards(work.whole(), tmp_path, 0)
    with pytest.raises(RuntimeError, match=r"process group \(got none"):
        load_shard(tmp_path)
