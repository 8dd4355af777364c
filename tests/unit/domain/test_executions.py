"""What an HTTP answer, or the lack of one, means for an Execution."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.domain.errors import DeadlineExceeded, NotFound, ResourceExhausted, Unavailable
from ignite.domain.executions import (
    MAX_ERROR_CHARS,
    ErrorClass,
    ExecutionStatus,
    cold_start_ms_of,
    failed_compile,
    outcome_of_answer,
    outcome_of_failure,
    result_json,
)


class TestResult:
    @pytest.mark.parametrize(
        ("content_type", "body", "result"),
        [
            ("application/json", b' {"a": 1}', b' {"a": 1}'),
            ("application/json; charset=utf-8", b"null", b"null"),
            ("application/problem+json", b"[1]", b"[1]"),
            ("application/json", b"{broken", b'"{broken"'),
            ("application/json", b"", b'""'),
            ("text/plain", "grüß".encode(), b'"gr\\u00fc\\u00df"'),
            ("text/html; charset=utf-8", b"<p>", b'"<p>"'),
            ("text/plain", b"\xff", b'"/w=="'),
            ("application/octet-stream", b"abc", b'"YWJj"'),
            ("image/png", b"\x89PNG", b'"iVBORw=="'),
            ("", b"words", b'"words"'),
            ("", b"\xff\xfe", b'"//4="'),
            ("", b"", b'""'),
        ],
    )
    def test_body_becomes_json(self, content_type: str, body: bytes, result: bytes) -> None:
        assert result_json(content_type, body) == result

    @given(st.sampled_from(["", "application/json", "text/plain", "image/png"]), st.binary())
    def test_whatever_comes_is_json(self, content_type: str, body: bytes) -> None:
        json.loads(result_json(content_type, body))

    @given(st.binary())
    def test_bytes_come_back_from_base64(self, body: bytes) -> None:
        found = json.loads(result_json("application/octet-stream", body))
        assert base64.b64decode(found) == body

    def test_deep_json_is_text_not_a_crash(self) -> None:
        deep = b"[" * 200_000
        assert json.loads(result_json("application/json", deep)) == deep.decode()


class TestOutcomeOfAnswer:
    def test_error_text_is_the_apps_own(self) -> None:
        headers = (("content-type", "application/json"),)
        body = b'{"error": "boom", "type": "ValueError", "traceback": "..."}'
        outcome = outcome_of_answer(500, headers, body)
        assert outcome.status is ExecutionStatus.FAILED
        assert outcome.error == "boom"
        assert outcome.error_class is ErrorClass.USER_CODE
        assert outcome.result == body

    def test_error_text_is_cut(self) -> None:
        headers = (("content-type", "application/json"),)
        body = json.dumps({"error": "x" * 10_000}).encode()
        assert len(outcome_of_answer(500, headers, body).error) == MAX_ERROR_CHARS

    @pytest.mark.parametrize(
        ("status", "error"),
        [(404, "the app answered 404 Not Found"), (599, "the app answered 599 an error")],
    )
    def test_without_a_text_the_status_is_told(self, status: int, error: str) -> None:
        assert outcome_of_answer(status, (), b"").error == error


class TestOutcomeOfFailure:
    @pytest.mark.parametrize(
        ("reason", "fault"),
        [
            ("ImportFailed", ErrorClass.USER_CODE),
            ("NoHandler", ErrorClass.USER_CODE),
            ("Crashed", ErrorClass.USER_CODE),
            ("OutOfMemory", ErrorClass.USER_CODE),
            ("SandboxFailed", ErrorClass.PLATFORM),
            ("NoToolchain", ErrorClass.PLATFORM),
            ("SomethingNew", ErrorClass.PLATFORM),
        ],
    )
    def test_reason_tells_whose_fault_it_is(self, reason: str, fault: ErrorClass) -> None:
        outcome = outcome_of_failure(Unavailable("words", reason=reason))
        assert outcome.status is ExecutionStatus.FAILED
        assert (outcome.error, outcome.error_reason) == ("words", reason)
        assert outcome.error_class is fault

    def test_other_errors_are_the_platforms(self) -> None:
        for error in (NotFound("x"), ResourceExhausted("x")):
            assert outcome_of_failure(error).error_class is ErrorClass.PLATFORM

    @pytest.mark.parametrize(
        ("reason", "fault"),
        [
            ("CompileFailed", ErrorClass.USER_CODE),
            ("SomethingNew", ErrorClass.USER_CODE),
            ("", ErrorClass.USER_CODE),
            ("Platform", ErrorClass.PLATFORM),
            ("SandboxFailed", ErrorClass.PLATFORM),
        ],
    )
    def test_code_that_does_not_compile_is_at_fault_unless_the_machine_is(
        self, reason: str, fault: ErrorClass
    ) -> None:
        outcome = failed_compile("words", reason)
        assert outcome.error_class is fault
        assert outcome.error_reason

    def test_late_is_a_timeout(self) -> None:
        outcome = outcome_of_failure(DeadlineExceeded("x"))
        assert outcome.status is ExecutionStatus.TIMEOUT
        assert outcome.error_class is ErrorClass.USER_CODE

    def test_late_start_is_the_platforms_timeout(self) -> None:
        outcome = outcome_of_failure(DeadlineExceeded("x", reason="ColdStartTimeout"))
        assert outcome.status is ExecutionStatus.TIMEOUT
        assert outcome.error_class is ErrorClass.PLATFORM


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [("12", 12), ("0", 0), ("", 0), ("-1", 0), ("1e3", 0), ("9" * 30, 0), ("१२", 0)],
)
def test_wait_for_a_start_is_read_from_the_gateways_header(value: str, milliseconds: int) -> None:
    assert cold_start_ms_of((("x-ignite-cold-start-wait-ms", value),)) == milliseconds
