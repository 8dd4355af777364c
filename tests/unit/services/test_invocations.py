"""Calls of apps: what is let through, what goes on the wire, which frames come back."""

import re
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.replies import ScriptedDispatcher, ScriptedReply
from tests.support.clocks import ManualClock

from ignite.domain.apps import AppRef
from ignite.domain.errors import (
    DeadlineExceeded,
    IgniteError,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
)
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    Principal,
    Scope,
)
from ignite.domain.invocations import (
    Chunk,
    Frame,
    Head,
    HttpCall,
    Trailer,
    end_to_end,
    headers_of,
    target_of,
)
from ignite.services.compute.invocations import MAX_CHUNK_BYTES, Invocations
from ignite.settings import GatewaySettings, LimitSettings

ACME = Organization(id=OrganizationId("1"), name=OrganizationName("acme"))
CALLER = Principal(subject="sa", organization=ACME, scopes=frozenset({Scope.INVOKE_APP}))
APP = AppRef(organization=OrganizationName("acme"), name="hello")
LIMITS = LimitSettings(payload_bytes=100, timeout_secs=40)


def invocations(dispatcher: ScriptedDispatcher, clock: ManualClock | None = None) -> Invocations:
    clock = clock or ManualClock()
    return Invocations(
        dispatcher, LIMITS, GatewaySettings(cold_start_budget_secs=2), monotonic=clock.monotonic
    )


async def frames_of(dispatcher: ScriptedDispatcher, **options: Any) -> list[Frame]:
    given: dict[str, Any] = {"app": APP, "http": HttpCall(), "body": b"", **options}
    return [frame async for frame in invocations(dispatcher).frames(CALLER, **given)]


class TestFrames:
    async def test_head_chunks_trailer_in_order(self) -> None:
        reply = ScriptedReply(
            status=404,
            headers=(("content-type", "x"), ("connection", "close, x-hop"), ("x-hop", "1")),
            chunks=(b"ab", b"", b"c"),
            trailers=(("x-sum", "3"),),
        )
        found = await frames_of(ScriptedDispatcher(reply))
        head = found[0]
        assert isinstance(head, Head)
        assert (head.status, head.headers) == (404, (("content-type", "x"),))
        assert re.fullmatch(r"exec_[0-9A-HJKMNP-TV-Z]{26}", head.execution_id)
        assert found[1:3] == [Chunk(data=b"ab"), Chunk(data=b"c")]
        assert found[3:] == [Trailer(total_body_bytes=3, duration_ms=0, trailers=(("x-sum", "3"),))]

    async def test_duration_includes_the_wait_for_the_head(self) -> None:
        clock = ManualClock()
        dispatcher = ScriptedDispatcher()
        frames: list[Frame] = []
        async for frame in invocations(dispatcher, clock).frames(CALLER, APP, HttpCall(), b""):
            frames.append(frame)
            if isinstance(frame, Head):
                clock.forward(1.5)
        assert isinstance(frames[-1], Trailer)
        assert frames[-1].duration_ms == 1500

    async def test_large_pieces_are_split(self) -> None:
        found = await frames_of(
            ScriptedDispatcher(ScriptedReply(chunks=(b"x" * (MAX_CHUNK_BYTES + 1),)))
        )
        sizes = [len(frame.data) for frame in found if isinstance(frame, Chunk)]
        assert sizes == [MAX_CHUNK_BYTES, 1]

    async def test_breaking_off_raises_after_what_came(self) -> None:
        reply = ScriptedReply(chunks=(b"a",), breaks=Unavailable("broke"))
        frames = invocations(ScriptedDispatcher(reply)).frames(CALLER, APP, HttpCall(), b"")
        found = [await anext(frames), await anext(frames)]
        with pytest.raises(Unavailable):
            await anext(frames)
        assert [type(frame) for frame in found] == [Head, Chunk]

    async def test_closing_early_disconnects_the_replica(self) -> None:
        dispatcher = ScriptedDispatcher(ScriptedReply(endless=b"x"))
        async with aclosing(invocations(dispatcher).frames(CALLER, APP, HttpCall(), b"")) as frames:
            await anext(frames)
            await anext(frames)
            assert not dispatcher.left.is_set()
        assert dispatcher.left.is_set()

    async def test_nothing_is_read_ahead(self) -> None:
        dispatcher = ScriptedDispatcher(ScriptedReply(endless=b"x"))
        async with aclosing(invocations(dispatcher).frames(CALLER, APP, HttpCall(), b"")) as frames:
            await anext(frames)
            assert dispatcher.reply.sent_bytes == 0


class TestCall:
    async def test_what_goes_to_the_gateway(self) -> None:
        dispatcher = ScriptedDispatcher()
        http = HttpCall(
            method="PUT",
            path="/a%20b",
            query="x=1&y",
            headers=(
                ("X-Mine", " 1 "),
                ("Host", "evil"),
                ("Connection", "x-hop"),
                ("X-Hop", "1"),
                ("Transfer-Encoding", "chunked"),
                ("Content-Length", "7"),
                ("X-Ignite-Execution-Id", "forged"),
                ("x-envoy-retry-on", "5xx"),
                ("X-Organization-Name", "globex"),
                ("Set-Cookie", "a"),
                ("Set-Cookie", "b"),
            ),
        )
        await frames_of(dispatcher, http=http, body=b"data")
        (call,) = dispatcher.calls
        assert (call.method, call.target, call.body) == ("PUT", "/a%20b?x=1&y", b"data")
        assert call.headers == (("x-mine", "1"), ("set-cookie", "a"), ("set-cookie", "b"))
        assert call.version is None
        assert call.app == APP

    async def test_defaults_are_post_and_the_root(self) -> None:
        dispatcher = ScriptedDispatcher()
        await frames_of(dispatcher, http=HttpCall(method="", path=""))
        assert (dispatcher.calls[0].method, dispatcher.calls[0].target) == ("POST", "/")

    @pytest.mark.parametrize(("given", "sent"), [(None, 42), (5.0, 5), (1000.0, 42)])
    async def test_deadline_is_the_shorter_of_callers_and_bound(
        self, given: float | None, sent: float
    ) -> None:
        dispatcher = ScriptedDispatcher()
        await frames_of(dispatcher, deadline_secs=given)
        assert dispatcher.calls[0].deadline_secs == sent

    async def test_deadline_that_has_passed_dispatches_nothing(self) -> None:
        dispatcher = ScriptedDispatcher()
        with pytest.raises(DeadlineExceeded):
            await frames_of(dispatcher, deadline_secs=0.0)
        assert not dispatcher.calls

    async def test_ids_differ(self) -> None:
        dispatcher = ScriptedDispatcher()
        await frames_of(dispatcher)
        await frames_of(dispatcher)
        assert len({call.execution_id for call in dispatcher.calls}) == 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("http", "field"),
        [
            (HttpCall(path="a"), "http.path"),
            (HttpCall(path="http://x/"), "http.path"),
            (HttpCall(path="/a b"), "http.path"),
            (HttpCall(path="/a\r\nX: 1"), "http.path"),
            (HttpCall(path="/a\0"), "http.path"),
            (HttpCall(path="/a?b"), "http.path"),
            (HttpCall(path="/a#b"), "http.path"),
            (HttpCall(path="/é"), "http.path"),
            (HttpCall(path="/" + "x" * 8192), "http.path"),
            (HttpCall(query="a b"), "http.query"),
            (HttpCall(query="a\nb"), "http.query"),
            (HttpCall(query="a#b"), "http.query"),
            (HttpCall(method="TRACE"), "http.method"),
            (HttpCall(method="GET / HTTP/1.1\r\n"), "http.method"),
            (HttpCall(headers=(("a b", "1"),)), "http.headers"),
            (HttpCall(headers=(("", "1"),)), "http.headers"),
            (HttpCall(headers=(("a:", "1"),)), "http.headers"),
            (HttpCall(headers=(("a", "1\r\nb: 2"),)), "http.headers"),
            (HttpCall(headers=(("a", "\0"),)), "http.headers"),
            (HttpCall(headers=(("a", "€"),)), "http.headers"),
            (HttpCall(headers=(("a", "1"),) * 101), "http.headers"),
            (HttpCall(headers=(("a", "x" * 40_000),)), "http.headers"),
        ],
    )
    async def test_wrong_envelope_names_its_field(self, http: HttpCall, field: str) -> None:
        dispatcher = ScriptedDispatcher()
        with pytest.raises(InvalidArgument) as caught:
            await frames_of(dispatcher, http=http)
        assert caught.value.field == field
        assert not dispatcher.calls

    async def test_payload_over_the_bound(self) -> None:
        await frames_of(ScriptedDispatcher(), body=b"x" * 100)
        with pytest.raises(InvalidArgument) as caught:
            await frames_of(ScriptedDispatcher(), body=b"x" * 101)
        assert caught.value.field == "body"

    async def test_other_organization(self) -> None:
        other = AppRef(organization=OrganizationName("globex"), name="hello")
        with pytest.raises(PermissionDenied):
            await frames_of(ScriptedDispatcher(), app=other)

    async def test_public_organization_is_open_but_for_its_versions(self) -> None:
        public = AppRef(organization=OrganizationName("public"), name="hello")
        await frames_of(ScriptedDispatcher(), app=public)
        with pytest.raises(PermissionDenied):
            await frames_of(ScriptedDispatcher(), app=public, version=0)

    async def test_wrong_app_name(self) -> None:
        with pytest.raises(InvalidArgument):
            await frames_of(ScriptedDispatcher(), app=AppRef(organization=ACME.name, name="../x"))

    async def test_refusal_of_the_gateway_comes_through(self) -> None:
        refusal = Unavailable("cold start failed", reason="ImagePullFailed")
        with pytest.raises(Unavailable) as caught:
            await frames_of(ScriptedDispatcher(refuses=refusal))
        assert caught.value.reason == "ImagePullFailed"


class TestProperties:
    @given(path=st.text(max_size=30), query=st.text(max_size=30))
    def test_target_is_one_printable_word_or_refused(self, path: str, query: str) -> None:
        try:
            target = target_of(HttpCall(path=path, query=query))
        except InvalidArgument:
            return
        assert re.fullmatch(r"/[\x21-\x7e]*", target)
        assert "#" not in target

    @given(headers=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=5))
    def test_headers_never_end_a_line(self, headers: list[tuple[str, str]]) -> None:
        try:
            kept = headers_of(HttpCall(headers=tuple(headers)))
        except IgniteError:
            return
        for name, value in kept:
            assert name
            assert not set(name + value) & {"\r", "\n", "\0"}
            (name + value).encode("latin-1")

    @given(
        names=st.lists(
            st.sampled_from(["connection", "te", "upgrade", "trailer", "a", "keep-alive"])
        )
    )
    def test_hop_by_hop_never_passes(self, names: list[str]) -> None:
        kept = {name for name, _ in end_to_end((name, "a") for name in names)}
        assert kept <= {"a"}
        assert "connection" not in names or not kept
