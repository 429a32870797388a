"""Processes that stay while the tests run: importing torch takes longer than all they do."""

import tempfile
import traceback
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

MOST = 4
# Imported once, before the processes part; modules of the tests' folder cannot be.
PRELOADED = ["hsa_geometric.distributed", "torch.distributed.checkpoint", "torch.distributed.fsdp"]


def serve(rank, size, path, seconds, pipe):
    """Do what comes through the pipe in a group of the first so many processes."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=size,
        timeout=timedelta(seconds=seconds),
    )  # fmt: skip
    wait = timedelta(seconds=seconds)
    groups = [dist.new_group(list(range(n)), timeout=wait) for n in range(1, size + 1)]
    while True:
        asked = pipe.recv()
        if asked is None:
            return
        function, members, args = asked
        try:
            pipe.send((True, function(groups[members - 1], *args)))
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


class Processes:
    """A pool of processes of one gloo group on this machine."""

    def __init__(self, size=MOST, seconds=60):
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "rendezvous"
        self.pipes, self.members = [], []
        for rank in range(size):
            here, there = context.Pipe()
            member = context.Process(
                target=serve, args=(rank, size, path, seconds, there), daemon=True
            )
            member.start()
            self.pipes.append(here)
            self.members.append(member)

    def start(self, function, size, *args):
        """Call ``function(group, *args)`` in the first ``size`` processes."""
        for pipe in self.pipes[:size]:
            pipe.send((function, size, args))

    def finish(self, size):
        """Whether each of them returned, and what it returned or raised."""
        return [pipe.recv() for pipe in self.pipes[:size]]

    def run(self, function, size, *args):
        """What each returned; an error of any of them fails the test."""
        self.start(function, size, *args)
        found = self.finish(size)
        for rank, (good, result) in enumerate(found):
            assert good, f"process {rank}: {result}"
        return [result for _, result in found]

    def stop(self):
        """End the processes."""
        for pipe, member in zip(self.pipes, self.members, strict=True):
            if member.is_alive():
                pipe.send(None)
        for member in self.members:
            member.join(5)
            member.kill()
        self.folder.cleanup()
