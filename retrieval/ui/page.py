"""The page as a whole: title, tabs, API, and how it is launched."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from retrieval.errors import RetrievalError
from retrieval.indexing.jobs import Builds
from retrieval.logs import take_over
from retrieval.search.searcher import Searcher
from retrieval.settings import Settings
from retrieval.ui.api import add_endpoints
from retrieval.ui.controls import QUIET
from retrieval.ui.query_panel import QueryPanel
from retrieval.ui.scripts import beside
from retrieval.ui.serving.bodies import BodyLimit
from retrieval.ui.serving.gradio_patches import forbid_fetching, log_failures, trust_own_page
from retrieval.ui.serving.health import Health, add_visit, health_route, visit
from retrieval.ui.serving.limits import OWN, SESSIONS, Limits, limits_of
from retrieval.ui.serving.listening import listening_address
from retrieval.ui.serving.own_page import OwnPage
from retrieval.ui.serving.queue import FairQueue, KnownEvents
from retrieval.ui.serving.shutdown import Door, Doorkeeper
from retrieval.ui.serving.uploads import own_folder
from retrieval.ui.tabs.compare import CompareTab
from retrieval.ui.tabs.evaluate import EvaluateTab
from retrieval.ui.tabs.galleries import LOOK, GalleriesTab
from retrieval.ui.tabs.map import MapTab
from retrieval.ui.tabs.robustness import RobustnessTab
from retrieval.ui.tabs.search import SearchTab
from retrieval.ui.tabs.tab import Tab, TabContext
from retrieval.ui.theme import CSS, THEME
from retrieval.ui.widgets.thumbnails import Thumbnails

TITLE = "Lookalike"
TAGLINE = "Search by image, and see how the meaning of *similar* changes with the features."
TABS: tuple[type[Tab], ...] = (
    SearchTab,
    CompareTab,
    RobustnessTab,
    MapTab,
    EvaluateTab,
    GalleriesTab,
)

CACHE_SECONDS = (3600, 86400)  # every hour, uploads older than a day are deleted
LEAN = {
    # After each event, gradio would summarise the last 10,000 with pandas, for a view that is switched off below.
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",
    # Before each event, gradio asks matplotlib for its backend, and matplotlib would try every one for screens.
    "MPLBACKEND": "agg",
}


class Page(gr.Blocks):
    """The gradio Blocks, and the images that they show."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.thumbnails = Thumbnails()
        self.fair_queue: FairQueue


def build_page(
    searcher: Searcher, examples: Iterable[Path], about: str, builds: Builds | None = None, limits: Limits = OWN
) -> Page:
    """Return the page, with query images to try and a line about the model; visitors can build galleries with `builds`.

    Raises:
        RetrievalError: the folder for uploads cannot be created.
    """
    for name, value in LEAN.items():
        os.environ.setdefault(name, value)
    os.environ["GRADIO_TEMP_DIR"] = str(own_folder())
    page = Page(title=TITLE, delete_cache=CACHE_SECONDS, analytics_enabled=False)
    with page:
        gr.Markdown(f"# {TITLE}\n{TAGLINE}", elem_id="title")
        timer = gr.Timer(LOOK, active=False) if builds else None
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                panel = QueryPanel(searcher, examples, page.thumbnails)
            context = TabContext(page, searcher, panel, page.thumbnails, limits, builds, timer)
            with gr.Column(scale=8, min_width=320):
                for kind in TABS:
                    if kind.offered(context):
                        with gr.Tab(kind.title) as tab:
                            kind(context, tab)
        gr.Markdown(about, elem_id="about")
        page.load(panel.galleries, None, panel.gallery, **QUIET)  # some may have been built since the start
        add_endpoints(searcher, limits)
        add_visit()
    page.queue(api_open=False)  # else calls could bypass the queue
    page._queue = page.fair_queue = FairQueue(page, page.max_threads, limits.seconds)
    return page


def launch(page: Page, settings: Settings, health: Health) -> Door:
    """Serve the page without tracking visitors or sending requests to other servers; the door returned closes it.

    Raises:
        RetrievalError: it cannot listen at the address in the settings.
    """
    forbid_fetching()
    log_failures()
    trust_own_page()
    door, limits = Door(), limits_of(settings)
    host, port = listening_address(settings.host, settings.port)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=settings.share,
            theme=THEME,
            css=CSS,
            js=beside(__file__, "accessibility.js"),
            max_file_size=limits.upload_bytes,
            state_session_capacity=SESSIONS,
            app_kwargs={
                "middleware": [
                    *([Middleware(OwnPage)] if settings.own_machine else []),
                    Middleware(BodyLimit, own_folder(), limits.upload_bytes),
                    Middleware(Doorkeeper, door),
                    Middleware(KnownEvents, page.fair_queue),
                ],
                "routes": [page.thumbnails.route, health_route(health)],
            },
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=True,
            footer_links=["api", "settings"],
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise RetrievalError(
            f"The page cannot listen on {host}: another program has just taken port {port}. Start the app again."
        ) from error
    take_over("uvicorn")
    health.visit = partial(visit, str(page.local_url), page.fair_queue.exempt)
    return door
