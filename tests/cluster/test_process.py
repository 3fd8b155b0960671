"""Law: which process of how many this is follows from flags, then torchrun, then a Slurm step; else it is alone."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from skillaxes.cluster.launch import Process, detect_launcher, expand_hosts, slurm_port
from skillaxes.errors import UsageError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node01",
    "MASTER_PORT": "29501",
    "TORCHELASTIC_RUN_ID": "abc",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
BATCH = {
    "SLURM_JOB_ID": "812",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
}
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NODEID": "1",
    "SLURM_GTIDS": "2,3",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
# A batch job that was submitted by a task of a step: the step's variables, but its own number and those on its node.
SUBMITTED = {**STEP, "SLURM_JOB_ID": "813", "SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_GTIDS": "0"}
PORT = slurm_port("812", "3")


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        ({}, {}, (0, 1, "alone", "127.0.0.1", None)),
        (TORCHRUN, {}, (5, 16, "torchrun", "node01", 1)),
        ({**STEP, **TORCHRUN}, {}, (5, 16, "torchrun", "node01", 1)),  # torchrun started by srun, once a node
        (STEP, {}, (3, 4, "slurm step", "gpu07", 1)),
        ({**STEP, **TORCHRUN}, {"index": 0, "size": 2}, (0, 2, "flags", "node01", None)),
        ({}, {"index": 1, "size": 2, "rendezvous": "far:4000"}, (1, 2, "flags", "far", None)),
        (STEP, {"rendezvous": "far:4000"}, (3, 4, "slurm step", "far", 1)),
        ({**STEP, "SLURM_STEP_NUM_NODES": "1"}, {}, (3, 4, "slurm step", "127.0.0.1", 1)),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, {}, (0, 1, "slurm step", "127.0.0.1", 1)),
        (BATCH, {}, (0, 1, "alone", "127.0.0.1", None)),
        ({**STEP, "SLURM_STEP_ID": "4294967290"}, {}, (0, 1, "alone", "127.0.0.1", None)),  # salloc's shell
        ({**STEP, "SLURM_PROCID": "0"}, {"terminal": True}, (0, 1, "alone", "127.0.0.1", None)),  # srun --pty bash
        (SUBMITTED, {}, (0, 1, "alone", "127.0.0.1", None)),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_GTIDS": "3"}, {}, (3, 4, "slurm step", "gpu07", 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {}, (0, 1, "alone", "127.0.0.1", None)),  # no place to meet: not torchrun
    ],
)
def test_the_process_follows_from_flags_and_environment(
    environ: Mapping[str, str], flags: dict, expected: tuple
) -> None:
    found = detect_launcher(environ, **flags)
    assert (found.index, found.size, found.source, found.host, found.local_rank) == expected


def test_a_shell_inside_an_allocation_is_one_process_and_says_so() -> None:
    assert "the batch script inside Slurm job 812 is no step: one process" in (detect_launcher(BATCH).remark or "")
    assert "a shell inside Slurm job 812" in (detect_launcher(STEP, terminal=True).remark or "")
    assert detect_launcher({}).remark is detect_launcher(STEP).remark is None


def test_torchruns_agent_keeps_the_store_and_restarts_are_told_apart() -> None:
    found = detect_launcher(TORCHRUN)
    assert found.store_is_external and found.port == 29501
    assert found.generation != detect_launcher({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "3"}).generation
    without_agent = {name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert not detect_launcher(without_agent).store_is_external


def test_every_process_of_a_step_finds_the_same_place() -> None:
    places = {
        (found.host, found.port, found.generation)
        for rank in range(4)
        for found in [detect_launcher({**STEP, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % 2)})]
    }
    assert places == {("gpu07", PORT, "812.3.0")}
    again = detect_launcher({**STEP, "SLURM_RESTART_COUNT": "1"})  # a requeued job counts its steps from 0 again
    assert again.generation not in {generation for _, _, generation in places}
    assert len({slurm_port(str(job), str(step)) for job in range(500, 520) for step in range(10)}) == 200


@pytest.mark.parametrize(
    ("environ", "flags", "words"),
    [
        ({}, {"index": 0}, "--world-size is missing"),
        ({}, {"size": 2}, "--process-index is missing"),
        ({}, {"index": 2, "size": 2}, "numbered from 0 to 1"),
        ({}, {"index": 0, "size": 2, "rendezvous": "here"}, "needs HOST:PORT"),
        ({}, {"rendezvous": "here:80"}, "needs --process-index and --world-size"),
        ({**TORCHRUN, "RANK": "x"}, {}, "RANK='x' is not a number"),
        ({**TORCHRUN, "RANK": "16"}, {}, "numbered from 0 to 15"),
        ({**STEP, "SLURM_STEP_NODELIST": "gpu[07-"}, {}, "is not a node list"),
        ({**STEP, "SLURM_PROCID": "4"}, {}, "start skillaxes with srun"),
    ],
)
def test_what_cannot_be_a_world_is_refused(environ: Mapping[str, str], flags: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("[", r"\[")):
        detect_launcher(environ, **flags)


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("gpu[01-02,7],login", ["gpu01", "gpu02", "gpu7", "login"]),
        ("r[1-2]n[1,3]", ["r1n1", "r1n3", "r2n1", "r2n3"]),
        ("x[1-2]-ib,y.local", ["x1-ib", "x2-ib", "y.local"]),
    ],
)
def test_node_lists_are_expanded_in_order(nodes: str, hosts: list[str]) -> None:
    assert expand_hosts(nodes) == hosts


def test_alone_is_the_default() -> None:
    assert Process() == detect_launcher({})
