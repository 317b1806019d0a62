"""Answer the requests on which gradio fails, such as calls of an unknown endpoint."""

import logging
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.ui.serving.bodies import refuse

FAILED = (
    "The server could not answer this request. Check its path and arguments, which `/gradio_api/info` describes, "
    "or try again later."
)

log = logging.getLogger(__name__)


class Failures:
    """ASGI middleware that turns exceptions into answers.

    Each place that fails is logged once, so that nobody can fill the log with stack traces.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._logged = set[tuple[type[Exception], str, int]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 500 if the app fails before it answers; an answer that it has begun ends there."""
        began = False

        async def sent(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            if scope["type"] != "http":
                raise
            self._log(error)
            if not began:
                await refuse(send, 500, FAILED)

    def _log(self, error: Exception) -> None:
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)  # reads no source, as each request may fail
        place = (type(error), frame.f_code.co_filename, line)
        if place not in self._logged:
            self._logged.add(place)
            log.warning("a request failed; further failures at the same place are not logged", exc_info=error)
