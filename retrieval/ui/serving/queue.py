"""The page's queue of events: gradio's own (6.31.0), except that no visitor can stop it or keep it for themselves.

gradio keeps the messages of a bounded number of sessions and drops the oldest, even while its event waits or runs. The
next message to it then raises an error, which ends the loop that starts events, so that every later call is refused.
"""

import asyncio
import ipaddress
import logging
import math
import random
import re
import time
import uuid
from collections import Counter
from typing import Any, Literal

from gradio.data_classes import PredictBodyInternal
from gradio.exceptions import Error
from gradio.queueing import Event, Queue
from gradio.server_messages import EventMessage, ProcessCompletedMessage, UnexpectedErrorMessage
from gradio.utils import error_payload
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from retrieval.settings import on_space
from retrieval.ui.serving.limits import ANSWERS, ANSWERS_PER_ADDRESS, ANSWERS_PER_SESSION, WAITING

ABANDONED = 30.0  # seconds after which a session that nobody listens to is dropped; clients listen at once
PAUSE = 0.1  # seconds after a failure
TURNS = 1000  # visitors whose last turn is remembered

LATE = "This page is busy: your call waited too long for its turn. Try again in a minute."
BUSY = "This page is busy: too many calls are waiting. Try again in a minute."
TOO_MANY = "Too many of your calls are waiting or have answers that were not fetched. Fetch them first."
RESTARTED = "The page had to restart its queue. Try again."
NO_EVENT = "There is no such call. Its answer was fetched before, or too late."
NO_SESSION = "This page has no call of this session."

EVENT = re.compile(r"/gradio_api/call/(?:v2/)?[^/]+/([^/]+)/?")
SESSION = "/gradio_api/queue/data"

log = logging.getLogger(__name__)

Pushed = tuple[bool, str | list[dict[str, Any]], Literal["success", "error", "queue_full", "validator_error"]]


class Mailbox(asyncio.Queue[EventMessage]):
    """The messages to a session, which also knows when its client last waited for one."""

    def __init__(self) -> None:
        super().__init__()
        self.read_at = time.monotonic()

    @override
    async def get(self) -> EventMessage:
        self.read_at = time.monotonic()  # a client that listens comes back every ten seconds
        return await super().get()


class FairQueue(Queue):
    """A queue in which visitors take turns; each may only have a share of the waiting, running and unfetched events.

    A visitor is a session and an address. `exempt` is a session to which no share applies: the one that checks whether
    the page still answers. An event whose turn does not come within `patience` seconds is answered with an error.
    """

    def __init__(self, blocks: Any, threads: int, patience: float = math.inf) -> None:
        super().__init__(True, threads, 1, max_size=None, blocks=blocks)  # `push` limits the size, with a clear message
        self.patience = patience
        self.exempt = uuid.uuid4().hex
        self._mailboxes: dict[str, Mailbox] = {}
        self.pending_messages_per_session = self._mailboxes  # type: ignore[assignment]  # this one drops nothing by itself
        self._addresses: dict[str, str] = {}  # session -> address
        self._closed = False
        self._turns: dict[str, float] = {}  # session or address -> when its last event started

    @override
    async def push(self, body: PredictBodyInternal, request: Request, username: str | None) -> Pushed:
        await self._drop_abandoned()
        body.session_hash = session = body.session_hash or uuid.uuid4().hex
        address = address_of(request)
        if session != self.exempt and (refusal := self._refusal(session, address)):
            return False, refusal, "queue_full"
        self._addresses[session] = address
        self._mailboxes.setdefault(session, Mailbox()).read_at = time.monotonic()
        return await super().push(body, request, username)

    @override
    def send_message(self, event: Event, event_message: EventMessage) -> None:
        if event.session_hash in self._mailboxes:
            super().send_message(event, event_message)
        else:
            event.alive = False  # its visitor has left

    @override
    def get_events(self) -> tuple[list[Event], bool, str] | None:
        groups = list(self.event_queue_per_concurrency_id.items())
        random.shuffle(groups)
        for name, group in groups:
            self._answer_late(group.queue)
            limit = group.concurrency_limit
            if not group.queue or (limit is not None and group.current_concurrency >= limit):
                continue
            if event := self._next(group.queue, name, limit):
                group.queue.remove(event)
                self._note_turn(event)
                return [event], False, name
        return None

    @override
    async def start_processing(self) -> None:
        while True:
            try:
                await super().start_processing()
            except Exception:
                log.exception("the queue failed and is restarted")
                for event in self._running():
                    self._fail(event, RESTARTED)
            if self._closed:
                return
            self.stopped = False
            await asyncio.sleep(PAUSE)  # else a lasting failure would keep the server from everything else

    @override
    def close(self) -> None:
        self._closed = True
        super().close()  # type: ignore[no-untyped-call]

    def has_event(self, event: str) -> bool:
        """Return whether an event waits, runs, or has an answer that was not fetched."""
        return event in self.event_ids_to_events or any(
            event in unanswered for unanswered in self.pending_event_ids_session.values()
        )

    def has_session(self, session: str) -> bool:
        """Return whether a session has messages, or will get some."""
        return session in self._mailboxes

    def _refusal(self, session: str, address: str) -> str | None:
        """Return why a visitor's event is refused, or None."""
        unanswered = {each: len(events) for each, events in self.pending_event_ids_session.items() if events}
        if len(self) >= WAITING or sum(unanswered.values()) >= ANSWERS:
            return BUSY
        own = sum(count for each, count in unanswered.items() if self._addresses.get(each) == address)
        if unanswered.get(session, 0) >= ANSWERS_PER_SESSION or own >= ANSWERS_PER_ADDRESS:
            return TOO_MANY
        return None

    async def _drop_abandoned(self) -> None:
        """Forget sessions whose answers were all fetched, or that nobody listens to, with all that they wait for."""
        oldest = time.monotonic() - ABANDONED
        # gradio deletes the mailbox of a visitor who disconnects, but not the rest.
        for session in {*self._mailboxes, *self.pending_event_ids_session, *self._addresses}:
            mailbox, unanswered = self._mailboxes.get(session), self.pending_event_ids_session.get(session)
            if mailbox is None or not unanswered or mailbox.read_at < oldest:
                await self.clean_events(session_hash=session)
                self._mailboxes.pop(session, None)
                self.pending_event_ids_session.pop(session, None)
                self._addresses.pop(session, None)

    def _next(self, waiting: list[Event], group: str, limit: int | None) -> Event | None:
        """Return the event of the visitor who has the fewest running in this group and has waited longest for a turn.

        A group that runs many events at once always keeps room for other visitors.
        """
        running = Counter(
            name for event in self._running() if event.concurrency_id == group for name in self._visitor(event)
        )
        shares = (math.inf, math.inf) if limit is None else (max(2, limit // 2), max(2, limit - 1))
        candidates = [
            event
            for event in waiting
            if all(running[name] < share for name, share in zip(self._visitor(event), shares, strict=True))
        ]

        def order(event: Event) -> tuple[float, ...]:
            session, address = self._visitor(event)
            return running[address], self._turns.get(address, 0.0), running[session], self._turns.get(session, 0.0)

        return min(candidates, key=order, default=None)

    def _answer_late(self, waiting: list[Event]) -> None:
        """Answer the events that have waited for too long."""
        oldest = time.monotonic() - self.patience
        for event in [each for each in waiting if each.enqueue_time < oldest]:
            waiting.remove(event)
            self._fail(event, LATE)

    def _fail(self, event: Event, why: str) -> None:
        output = error_payload(Error(why), True)
        self.send_message(event, ProcessCompletedMessage(output=output, success=False))

    def _note_turn(self, event: Event) -> None:
        for name in self._visitor(event):
            self._turns.pop(name, None)
            self._turns[name] = time.monotonic()
        while len(self._turns) > TURNS:
            del self._turns[next(iter(self._turns))]

    def _running(self) -> list[Event]:
        return [event for job in self.active_jobs if job for event in job]

    def _visitor(self, event: Event) -> tuple[str, str]:
        return event.session_hash, self._addresses.get(event.session_hash, "")


class KnownEvents:
    """ASGI middleware that answers those who wait for an event or a session that does not exist.

    gradio would begin an answer, and then fail with a traceback in the log.
    """

    def __init__(self, app: ASGIApp, queue: FairQueue) -> None:
        self._app = app
        self._queue = queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 for an event, or as gradio does for a session; pass everything else on."""
        if scope["type"] == "http" and scope["method"] == "GET":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if (event := EVENT.fullmatch(path)) and not self._queue.has_event(event[1]):
                return await JSONResponse({"detail": NO_EVENT}, 404)(scope, receive, send)
            if path == SESSION and not self._queue.has_session(Request(scope).query_params.get("session_hash", "")):
                message = UnexpectedErrorMessage(message=NO_SESSION, session_not_found=True)
                answer = Response(f"data: {message.model_dump_json()}\n\n", media_type="text/event-stream")
                return await answer(scope, receive, send)
        await self._app(scope, receive, send)


def address_of(request: Request) -> str:
    """Return the address of a visitor, or for IPv6 its network, since everyone has billions of addresses there.

    On a Space, the address of the connection is the proxy's, which appends the visitor's to a header.
    """
    address = request.client.host if request.client else ""
    if on_space():
        address = request.headers.get("x-forwarded-for", address).split(",")[-1].strip()
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
