"""The page as a whole: title, tabs, API, and how it is launched."""

import os
from functools import partial
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from retrieval.analysis.why import Explainer
from retrieval.errors import RetrievalError
from retrieval.features import DEFAULT_SET, default_first
from retrieval.indexing.jobs import Builds
from retrieval.installation import asset
from retrieval.logs import take_over
from retrieval.search.searcher import Searcher
from retrieval.settings import Settings
from retrieval.ui.address import Address
from retrieval.ui.api import add_endpoints
from retrieval.ui.controls import QUIET
from retrieval.ui.query_panel import QueryPanel, gallery_choice
from retrieval.ui.scripts import beside
from retrieval.ui.serving.bodies import BodyLimit
from retrieval.ui.serving.failures import Failures
from retrieval.ui.serving.gradio_patches import (
    describe_page,
    forbid_fetching,
    log_failures,
    look_for_ports_on_this_machine,
    trust_own_page,
)
from retrieval.ui.serving.health import Health, add_visit, health_route, visit
from retrieval.ui.serving.limits import OWN, SESSIONS, Limits, limits_of
from retrieval.ui.serving.listening import allow_many_connections, listening_address
from retrieval.ui.serving.made_page import MadePage
from retrieval.ui.serving.own_page import OwnPage
from retrieval.ui.serving.queue import FairQueue, Streams
from retrieval.ui.serving.shutdown import Door, Doorkeeper
from retrieval.ui.serving.turns import Turns
from retrieval.ui.serving.uploads import own_folder
from retrieval.ui.tabs.build_form import LOOK
from retrieval.ui.tabs.compare import CompareTab
from retrieval.ui.tabs.evaluate import EvaluateTab
from retrieval.ui.tabs.galleries import GalleriesTab
from retrieval.ui.tabs.lessons import LessonsTab
from retrieval.ui.tabs.map import MapTab
from retrieval.ui.tabs.robustness import RobustnessTab
from retrieval.ui.tabs.search import SearchTab
from retrieval.ui.tabs.tab import Tab, TabContext
from retrieval.ui.theme import CSS, THEME
from retrieval.ui.viewer import Viewer
from retrieval.ui.widgets.thumbnails import Thumbnails

TITLE = "Lookalike"
TAGLINE = "Search by image, and see how the meaning of *similar* changes with the features."
TABS: tuple[type[Tab], ...] = (
    SearchTab,
    CompareTab,
    RobustnessTab,
    MapTab,
    EvaluateTab,
    LessonsTab,
    GalleriesTab,
)

SCRIPTS = ("accessibility.js", "keys.js", "query_files.js")
# gradio applies `css` only to what is above the footer. On a phone, one of the footer's two links is hidden.
FOOTER = """<style>
footer button { min-width: 24px; min-height: 24px; }
@media (max-width: 640px) { footer .divider { display: none !important; } }
</style>"""
SCREENSHOT = asset("screens/search-light.webp")
PREVIEW = "/preview.webp"  # where other sites find it, to show it beside a link to the page

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


def build_page(searcher: Searcher, about: str, builds: Builds | None = None, limits: Limits = OWN) -> Page:
    """Return the page, with a line about the model; visitors can build galleries with `builds`.

    Raises:
        RetrievalError: the folder for uploads cannot be created.
    """
    for name, value in LEAN.items():
        os.environ.setdefault(name, value)
    os.environ["GRADIO_TEMP_DIR"] = str(own_folder())
    page = Page(title=TITLE, fill_width=True, delete_cache=CACHE_SECONDS, analytics_enabled=False)
    with page:
        with gr.Row(elem_id="head"):
            gr.Markdown(f"# {TITLE}\n{TAGLINE}", elem_id="title")
            gallery = gallery_choice(searcher)
        timer = gr.Timer(LOOK, active=False) if builds else None
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=280, elem_id="panel"):
                panel = QueryPanel(searcher, page.thumbnails, gallery)
            features, shown = _features(searcher, builds)
            explainer = Explainer(searcher)
            viewer = Viewer(explainer, panel, page.thumbnails, limits)
            context = TabContext(page, searcher, panel, page.thumbnails, viewer, limits, builds, timer, features, shown)
            with gr.Column(scale=11, min_width=320):
                _add_tabs(context)
        gr.Markdown(about, elem_id="about")
        page.load(panel.galleries, None, panel.gallery, **QUIET)  # some may have been built since the start
        add_endpoints(explainer, limits, features)
        add_visit()
    page.queue(api_open=False)  # else calls could bypass the queue
    page._queue = page.fair_queue = FairQueue(page, page.max_threads, limits.seconds)
    return page


def _add_tabs(context: TabContext) -> None:
    """Add the tabs, and let the address of the page follow them."""
    tabs = list[Tab]()
    for kind in TABS:
        if kind.offered(context):
            with gr.Tab(kind.title) as tab:
                tabs.append(kind(context, tab))
    [search] = [each for each in tabs if isinstance(each, SearchTab)]
    Address(context, search, {each.title.lower(): _kept(each) for each in tabs})


def _kept(tab: Tab) -> dict[str, Any]:
    """Return the components of a tab whose values are in the address, as they are named there."""
    match tab:
        case SearchTab():
            return {"cutoff": tab.cutoff}
        case RobustnessTab():
            return dict(tab.sliders)
        case LessonsTab():
            return {"lesson": tab.lesson}
    return {}


def _features(searcher: Searcher, builds: Builds | None) -> tuple[list[str], list[str]]:
    """Return the feature types that the page can show, and those of the gallery that it shows first."""
    indexes = searcher.indexes
    found = set(indexes.features())
    if builds or not found:  # a gallery that is built on the page may have them
        found |= {*DEFAULT_SET, *(each.name for each in (builds.base.features if builds else ()))}
    return default_first(found), default_first(indexes.get().features) if indexes.names() else []


def _preview(_: Request) -> FileResponse:
    return FileResponse(SCREENSHOT)


def launch(page: Page, settings: Settings, health: Health) -> Door:
    """Serve the page without tracking visitors or sending requests to other servers; the door returned closes it.

    Raises:
        RetrievalError: it cannot listen at the address in the settings.
    """
    forbid_fetching()
    log_failures()
    trust_own_page()
    describe_page(TITLE, TAGLINE.replace("*", ""), PREVIEW)
    look_for_ports_on_this_machine()
    door, limits = Door(), limits_of(settings)
    host, port = listening_address(settings.host, settings.port)
    allow_many_connections()
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=settings.share,
            theme=THEME,
            css=CSS,
            head=FOOTER,
            js="() => {" + "".join(f"({beside(__file__, name)})();" for name in SCRIPTS) + "}",
            max_file_size=limits.upload_bytes,
            state_session_capacity=SESSIONS,
            app_kwargs={
                "middleware": [
                    Middleware(Failures),
                    *([Middleware(OwnPage)] if settings.own_machine else []),
                    Middleware(Turns),
                    Middleware(BodyLimit, own_folder(), limits.upload_bytes),
                    Middleware(Doorkeeper, door),
                    Middleware(MadePage),
                    Middleware(Streams, page.fair_queue, lambda: door.shut),
                ],
                "routes": [page.thumbnails.route, health_route(health), Route(PREVIEW, _preview)],
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
