"""Paths of the contract that the edge is to serve and does not yet: they say so, as gRPC does.

Without them a caller could not tell "not yet" from a path that he got wrong.
"""

from dataclasses import dataclass

from ignite.domain.errors import Unimplemented
from ignite.edge.http import Request
from ignite.ports.identity import TokenVerifier
from ignite.rpc.auth import bearer_of

UNBUILT = (
    ("POST", "/v1/chat/completions", "ChatCompletion"),
    ("POST", "/v1/chat/completions/stream", "StreamChatCompletion"),
    ("POST", "/v1/embeddings", "Embed"),
    ("POST", "/v1/rerank", "Rerank"),
    ("POST", "/v1/rerank/stream", "StreamRerank"),
    ("POST", "/v1/audio/transcriptions", "Transcribe"),
    ("POST", "/v1/infer", "Infer"),
    ("POST", "/v1/infer/stream", "StreamInfer"),
    ("GET", "/v1/models", "ListModels"),
    ("GET", "/v1/models/{model}", "GetModel"),
)
_OPEN = frozenset({"ListModels", "GetModel"})


@dataclass(frozen=True, slots=True)
class UnbuiltEndpoint:
    """Refuses with the name of the RPC, after the caller has shown who he is."""

    verifier: TokenVerifier
    method: str

    async def __call__(self, request: Request) -> None:
        """Raise Unimplemented, or Unauthenticated before it."""
        if self.method not in _OPEN:
            await self.verifier.verify(bearer_of(request.header(b"authorization")))
        raise Unimplemented(f"ModelService.{self.method} is not built yet", reason="NotBuilt")
