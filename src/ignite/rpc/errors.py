"""The one place where an exception becomes a status.

Errors of the domain reach the caller as they are. Anything else is a failure of ours: the caller
gets a neutral text with the request id, the log gets the trace, once. Cancellation passes through.
"""

import asyncio
import logging

from ignite.domain.errors import DeadlineExceeded, IgniteError, Internal
from ignite.rpc.handlers import Context
from ignite.rpc.request_id import KEY, request_id
from ignite.rpc.status import DETAILS_KEY, code_of, details_bin, message_of

logger = logging.getLogger(__name__)


def to_ignite_error(error: Exception, identifier: str, method: str) -> IgniteError:
    """Return what the caller may know of `error`; log what he may not."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, IgniteError):
        return error
    about = {"method": method, "request_id": identifier}
    if isinstance(error, asyncio.TimeoutError):
        logger.warning("a bound on a call ran out", extra=about, exc_info=error)
        return DeadlineExceeded(f"took too long (request {identifier})")
    logger.error("a call failed", extra=about, exc_info=error)
    return Internal(f"internal error (request {identifier})")


async def abort(context: Context, error: IgniteError) -> None:
    """End the call with the status of `error`."""
    await context.abort(
        code_of(error),
        message_of(error),
        ((KEY, request_id()), (DETAILS_KEY, details_bin(error))),
    )
