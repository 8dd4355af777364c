"""The words for how a replica ended."""

from dataclasses import replace

import pytest

from ignite.spawner.record import Evidence, judge

ENDED = Evidence(
    exit_code=1,
    last_words="last words",
    oom_kills=0,
    memory_mb=64,
    was_ready=False,
    was_stopped=False,
)


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (ENDED, "Crashed"),
        (replace(ENDED, exit_code=0), "Crashed"),
        (replace(ENDED, exit_code=3), "ImportFailed"),
        (replace(ENDED, exit_code=4), "NoHandler"),
        (replace(ENDED, exit_code=-9, oom_kills=1), "OutOfMemory"),
        (replace(ENDED, exit_code=-9, timed_out_secs=60), "StartTimeout"),
        (replace(ENDED, exit_code=-9, timed_out_secs=60, was_stopped=True), "Stopped"),
        (replace(ENDED, last_words="bwrap: no such file"), "SandboxFailed"),
        (replace(ENDED, was_ready=True), "Crashed"),
        (replace(ENDED, was_ready=True, exit_code=0), "Exited"),
        (replace(ENDED, was_ready=True, exit_code=3), "Crashed"),
        (replace(ENDED, was_ready=True, exit_code=5), "HandlerStuck"),
        (replace(ENDED, was_ready=True, exit_code=-9, oom_kills=1), "OutOfMemory"),
        # A child of it was killed, and it went on to end by itself.
        (replace(ENDED, was_ready=True, exit_code=1, oom_kills=1), "Crashed"),
        (replace(ENDED, was_ready=True, exit_code=-9), "Crashed"),
        (replace(ENDED, was_ready=True, exit_code=-9, was_stopped=True), "Stopped"),
    ],
)
def test_the_reason(evidence: Evidence, reason: str) -> None:
    found = judge(evidence)
    assert found.reason == reason
    assert found.exit_code == evidence.exit_code


def test_the_sandboxs_own_words_are_not_shown() -> None:
    found = judge(replace(ENDED, last_words="bwrap: Can't find source path /data/x"))
    assert "/data" not in found.message


def test_silence_is_told_as_the_code_or_the_signal() -> None:
    assert judge(replace(ENDED, last_words="")).message == "ended with exit code 1"
    assert judge(replace(ENDED, last_words="", exit_code=-11)).message == "ended by signal 11"
