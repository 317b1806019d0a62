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
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from gradio.data_classes import PredictBodyInternal
from gradio.exceptions import Error
from gradio.queueing import Event, Queue
from gradio.server_messages import EventMessage, ProcessCompletedMessage, UnexpectedErrorMessage
from gradio.utils import error_payload
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from retrieval.settings import on_space
from retrieval.ui.serving.bodies import MCP
from retrieval.ui.serving.limits import ANSWERS, ANSWERS_PER_ADDRESS, ANSWERS_PER_SESSION, WAITING

ABANDONED = 30.0  # seconds after which a session that nobody listens to is dropped; clients listen at once
PAUSE = 0.1  # seconds after a failure
TURNS = 1000  # visitors whose last turn is remembered
LOOK_AGAIN = 0.01  # seconds; gradio asks every millisecond, which slows down searches if many events wait
ACTIVE = 10.0  # seconds for which a visitor who had a turn counts as active
LONGEST_REST = 1.0  # seconds that a visitor waits after a call while others are active, at most as long as it took
PROGRAM_STAYS = 1.0  # seconds that the stream of a program goes on after the last answer; it cannot exit before
BROWSER_STAYS = 10.0  # the same for a browser, which has six connections for all its tabs, so not without end
LEAVING = 10.0  # seconds that a client has to leave its stream once it has been told that it ends
LOOK_AT_DOOR = 0.5  # seconds between two checks whether the page is shutting down

LATE = "This page is busy: your call waited too long for its turn. Try again in a minute."
BUSY = "This page is busy: too many calls are waiting. Try again in a minute."
TOO_MANY = "Too many of your calls are waiting or have answers that were not fetched. Fetch them first."
RESTARTED = "The page had to restart its queue. Try again."
NO_EVENT = "This call does not exist, or its answer was already fetched or has expired."
NO_SESSION = "This session has no calls on this page."

EVENT = re.compile(r"/gradio_api/call/(?:v2/)?[^/]+/([^/]+)/?")
SESSION = "/gradio_api/queue/data"
CLOSE = b'"msg":"close_stream"'
VISITOR = b"x-lookalike-visitor"

log = logging.getLogger(__name__)

Pushed = tuple[bool, str | list[dict[str, Any]], Literal["success", "error", "queue_full", "validator_error"]]


@dataclass
class Turn:
    """When the last event of a visitor started, and until when the visitor waits if others are active."""

    started: float = 0.0
    rests_until: float = 0.0


NEVER = Turn()


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

    A visitor is a session and an address. gradio sends the calls of all MCP clients in one session from this machine,
    so a header that `Streams` adds to their requests tells them apart. `exempt` is a session to which no share applies:
    the one that checks whether the page still answers. An event whose turn does not come within `patience` seconds is
    answered with an error.
    """

    def __init__(self, blocks: Any, threads: int, patience: float = math.inf) -> None:
        super().__init__(True, threads, 1, max_size=None, blocks=blocks)  # `push` limits the size, with a clear message
        self.patience = patience
        self.exempt = uuid.uuid4().hex
        self.secret = uuid.uuid4().hex  # in that header, so that no visitor can pretend to be another one
        self._asked_by: dict[str, str] = {}  # event of an MCP client -> its address
        self._calls: dict[str, asyncio.Event] = {}  # of sessions whose streams wait for a call
        self._ending: dict[str, asyncio.Event] = {}  # of sessions whose clients are told that their streams end
        self._mailboxes: dict[str, Mailbox] = {}
        self.pending_messages_per_session = self._mailboxes  # type: ignore[assignment]  # this one drops nothing by itself
        self._addresses: dict[str, str] = {}  # session -> address
        self._closed = False
        self._look_at = 0.0
        self._turns: dict[tuple[str, str], Turn] = {}  # of sessions and addresses

    @override
    async def push(self, body: PredictBodyInternal, request: Request, username: str | None) -> Pushed:
        await self._drop_abandoned()
        body.session_hash = session = body.session_hash or uuid.uuid4().hex
        if left := self._ending.get(session):
            await left.wait()
        client, address = self._mcp_client(request), address_of(request)
        if session != self.exempt and (refusal := self._refusal(session, address, client)):
            return False, refusal, "queue_full"
        if not client:
            self._addresses[session] = address
        self._mailboxes.setdefault(session, Mailbox()).read_at = time.monotonic()
        pushed = await super().push(body, request, username)
        if client and pushed[0]:
            self._asked_by[str(pushed[1])] = client
        if call := self._calls.get(session):
            call.set()
        self._look_at = 0.0
        return pushed

    @override
    def send_message(self, event: Event, event_message: EventMessage) -> None:
        if event.session_hash in self._mailboxes:
            super().send_message(event, event_message)
        else:
            event.alive = False  # its visitor has left

    @override
    def get_events(self) -> tuple[list[Event], bool, str] | None:
        if (now := time.monotonic()) < self._look_at:
            return None
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
        self._look_at = now + LOOK_AGAIN
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
    async def process_events(self, events: list[Event], *arguments: Any) -> None:
        started = time.monotonic()
        try:
            await super().process_events(events, *arguments)
        finally:
            ended = time.monotonic()
            for name in self._visitor(events[0]):
                self._turns.get(name, Turn()).rests_until = ended + min(ended - started, LONGEST_REST)

    @override
    def close(self) -> None:
        self._closed = True
        super().close()  # type: ignore[no-untyped-call]

    def has_event(self, event: str) -> bool:
        """Return whether an event waits, runs, or has an answer that was not fetched."""
        return event in self.event_ids_to_events or any(
            event in unanswered for unanswered in self.pending_event_ids_session.values()
        )

    def has_unanswered(self, session: str) -> bool:
        """Return whether a session waits for an answer."""
        return bool(self.pending_event_ids_session.get(session))

    async def next_call(self, session: str) -> None:
        """Wait until a session waits for an answer."""
        while not self.has_unanswered(session):
            call = self._calls[session] = asyncio.Event()
            try:
                await call.wait()
            finally:
                self._calls.pop(session, None)

    @contextmanager
    def ending(self, session: str) -> Iterator[None]:
        """Keep the calls of a session waiting, so that their client opens another stream for them."""
        left = self._ending[session] = asyncio.Event()
        try:
            yield
        finally:
            left.set()
            if self._ending.get(session) is left:
                del self._ending[session]

    def has_session(self, session: str) -> bool:
        """Return whether a session has messages, or will get some."""
        return session in self._mailboxes

    def _mcp_client(self, request: Request) -> str:
        """Return the address of the MCP client that a request of gradio's own client was sent for, else ""."""
        secret, _, address = request.headers.get(VISITOR.decode(), "").partition(" ")
        return address if secret == self.secret else ""

    def _refusal(self, session: str, address: str, client: str) -> str | None:
        """Return why the event of a visitor, or of an MCP `client`, is refused, or None."""
        unanswered = {each: len(events) for each, events in self.pending_event_ids_session.items() if events}
        if len(self) >= WAITING or sum(unanswered.values()) >= ANSWERS:
            return BUSY
        if client:
            return TOO_MANY if list(self._asked_by.values()).count(client) >= ANSWERS_PER_SESSION else None
        own = sum(count for each, count in unanswered.items() if self._addresses.get(each) == address)
        if unanswered.get(session, 0) >= ANSWERS_PER_SESSION or own >= ANSWERS_PER_ADDRESS:
            return TOO_MANY
        return None

    async def _drop_abandoned(self) -> None:
        """Forget sessions whose answers were all fetched, or that nobody listens to, with all that they wait for.

        Also forget which MCP client asked for an event that was answered.
        """
        oldest = time.monotonic() - ABANDONED
        # gradio deletes the mailbox of a visitor who disconnects, but not the rest.
        for session in {*self._mailboxes, *self.pending_event_ids_session, *self._addresses}:
            mailbox, unanswered = self._mailboxes.get(session), self.pending_event_ids_session.get(session)
            if mailbox is None or not unanswered or mailbox.read_at < oldest:
                await self.clean_events(session_hash=session)
                self._mailboxes.pop(session, None)
                self.pending_event_ids_session.pop(session, None)
                self._addresses.pop(session, None)
        left = set().union(*self.pending_event_ids_session.values())
        self._asked_by = {each: by for each, by in self._asked_by.items() if each in left}

    def _next(self, waiting: list[Event], group: str, limit: int | None) -> Event | None:
        """Return the event of the visitor who has the fewest running in this group and has waited longest for a turn.

        Visitors who are active at the same time share the places of a group, since each call of one slows down all.
        """
        running = Counter(
            name for event in self._running() if event.concurrency_id == group for name in self._visitor(event)
        )
        shares, resting = ((math.inf, math.inf), set()) if limit is None else self._shares(waiting, limit)
        candidates = [
            event
            for event in waiting
            if all(
                running[name] < share and name not in resting
                for name, share in zip(self._visitor(event), shares, strict=True)
            )
        ]

        def order(event: Event) -> tuple[float, ...]:
            session, address = self._visitor(event)
            turns = self._turns.get(address, NEVER), self._turns.get(session, NEVER)
            return running[address], turns[0].started, running[session], turns[1].started

        return min(candidates, key=order, default=None)

    def _shares(self, waiting: list[Event], limit: int) -> tuple[tuple[float, float], set[tuple[str, str]]]:
        """Return how many events a session and an address may have running in a group, and who rests."""
        now = time.monotonic()
        active = {name for name, turn in self._turns.items() if turn.started > now - ACTIVE}
        active.update(name for event in (*waiting, *self._running()) for name in self._visitor(event))
        kinds = Counter(kind for kind, _ in active)
        sessions, addresses = kinds["session"], kinds["address"]
        own = max(2, limit // 2) if sessions == 1 else max(1, limit // sessions)
        address = max(2, limit - 1) if addresses == 1 else max(1, limit // addresses)
        return (own, address), {
            name for name, turn in self._turns.items() if turn.rests_until > now and kinds[name[0]] > 1
        }

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
        for name in self._visitor(event) if event.session_hash != self.exempt else ():
            self._turns.pop(name, None)
            self._turns[name] = Turn(time.monotonic())
        while len(self._turns) > TURNS:
            del self._turns[next(iter(self._turns))]

    def _running(self) -> list[Event]:
        return [event for job in self.active_jobs if job for event in job]

    def _visitor(self, event: Event) -> tuple[tuple[str, str], tuple[str, str]]:
        session = event.session_hash
        if client := self._mcp_client(event.request):
            return ("session", f"{session} {client}"), ("address", client)
        return ("session", session), ("address", self._addresses.get(session, ""))


class Streams:
    """ASGI middleware for the streams of answers that gradio sends.

    Those who wait for an event or a session that does not exist are told so; gradio would begin an answer, and then
    fail with a traceback in the log.

    The stream of a session goes on for a while after its last answer; gradio ends it at once. A client that has sent
    its next call at that moment may still take the stream for open, so it would never get the answer. When the stream
    does end, calls wait until the client has left it.
    """

    def __init__(self, app: ASGIApp, queue: FairQueue, is_shut: Callable[[], bool]) -> None:
        """Keep what tells when streams end: `is_shut` returns whether the page is shutting down."""
        self._app = app
        self._queue = queue
        self._is_shut = is_shut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 for an event, or as gradio does for a session; pass everything else on."""
        if scope["type"] == "http" and MCP in scope["path"]:
            return await self._app(self._named(scope), receive, send)
        if scope["type"] == "http" and scope["method"] == "GET":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if (event := EVENT.fullmatch(path)) and not self._queue.has_event(event[1]):
                return await JSONResponse({"detail": NO_EVENT}, 404)(scope, receive, send)
            if path == SESSION:
                session = Request(scope).query_params.get("session_hash", "")
                if self._queue.has_session(session):
                    return await self._stream(session, scope, receive, send)
                message = UnexpectedErrorMessage(message=NO_SESSION, session_not_found=True)
                answer = Response(f"data: {message.model_dump_json()}\n\n", media_type="text/event-stream")
                return await answer(scope, receive, send)
        await self._app(scope, receive, send)

    def _named(self, scope: Scope) -> Scope:
        """Return the request of an MCP client with its address, in a header that gradio passes on to the queue."""
        # gradio would pass on the header of a body in chunks, too, with another body.
        headers = [each for each in scope["headers"] if each[0] not in (VISITOR, b"transfer-encoding")]
        name = f"{self._queue.secret} {address_of(Request(scope))}".encode("latin-1", "replace")
        return {**scope, "headers": [*headers, (VISITOR, name)]}

    async def _stream(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on gradio's stream; start it again if the session sends another call."""
        started, ending = False, list[Message]()

        async def forward(message: Message) -> None:
            nonlocal started
            if ending or CLOSE in message.get("body", b""):
                ending.append(message)
            elif message["type"] != "http.response.start" or not started:
                started = True
                await send(message)

        browser = "Mozilla/" in Request(scope).headers.get("user-agent", "")  # all of them say so
        while True:
            ending.clear()
            await self._app(dict(scope), receive, forward)
            if not ending:
                return  # the client has left
            stays = BROWSER_STAYS if browser else PROGRAM_STAYS
            calls, left = await self._first_of(stays, self._queue.next_call(session), _disconnect(receive))
            if left or not calls:
                break  # a client that has left opens another stream for its next call
        with self._queue.ending(session):
            await send(ending[0])
            await self._first_of(LEAVING, _disconnect(receive))
        for message in ending[1:]:
            await send(message)

    async def _first_of(self, seconds: float, *awaited: Coroutine[Any, Any, None]) -> list[bool]:
        """Wait until one has ended, the time is up or the page shuts down; return which have ended."""
        end, tasks = time.monotonic() + seconds, [asyncio.ensure_future(each) for each in awaited]
        try:
            while not (any(task.done() for task in tasks) or self._is_shut() or self._queue.stopped):
                if (rest := end - time.monotonic()) <= 0:
                    break
                await asyncio.wait(tasks, timeout=min(rest, LOOK_AT_DOOR), return_when=asyncio.FIRST_COMPLETED)
            return [task.done() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()


async def _disconnect(receive: Receive) -> None:
    """Wait until a client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass


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
