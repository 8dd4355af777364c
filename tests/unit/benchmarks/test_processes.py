"""What processes cost, read from /proc."""

import os
import subprocess
import sys

import pytest
from benchmarks.processes import Meter, children_of, cpu_us, memory_of, role_of, tree_of


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("/x/.venv/bin/python -m ignite api", "api"),
        ("/x/bin/postgres -D /data", "postgres"),
        ("/x/bin/bao server -config=/x", "openbao"),
        ("/x/envoy --config-path /x", "envoy"),
        ("", ""),
    ],
)
def test_a_part_is_known_by_its_command(command: str, role: str) -> None:
    assert role_of(command) == role


def test_a_process_that_is_gone_costs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    assert cpu_us(process.pid) == 0
    assert memory_of([process.pid]).rss_kb == 0


def test_a_child_is_found_and_its_work_is_counted() -> None:
    code = "for _ in range(6_000_000): pass\nprint('done', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        meter = Meter({"child": (process.pid,), "none": ()})
        assert process.pid in children_of(os.getpid())
        assert process.pid in tree_of(os.getpid())
        process.stdout.readline()
        spent = meter.stop()
        memory = memory_of([process.pid])
        process.stdin.close()
    assert spent.cpu_us["child"] > 0
    assert spent.cpu_us["none"] == 0
    assert 0 < memory.pss_kb <= memory.rss_kb
