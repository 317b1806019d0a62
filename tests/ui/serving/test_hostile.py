"""Attacks by a hostile visitor of a public page: nothing is leaked, fetched, run or stored that should not be.

All tests attack one app that runs as on a Space. They check every answer for secrets. The last test checks that the app
still works as before and that its memory has hardly grown. All addresses are on this machine.
"""

import json
import re
import socket
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from datasets import Dataset, Features, Image, Value
from playwright.sync_api import Browser, expect

from retrieval import index_builder
from retrieval.pictures.loading import MAX_BYTES
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.serving import bodies
from retrieval.ui.serving.bodies import FORM_BYTES
from retrieval.ui.serving.failures import FAILED
from retrieval.ui.serving.limits import MAX_CALL, WAITING
from tests.support.attacked import DEFAULTS, FILE, SECRET, TAIL, Site, check_after_attacks, nested, search_hits
from tests.support.browsing import hits, open_tab, search_with, served, settings_of, wait_until_loaded
from tests.support.hostile_pictures import NO_PICTURE, READ, files, small
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.endurance, pytest.mark.short]

# Files


@pytest.mark.parametrize("name", files())
def test_files_are_read_or_refused_with_a_message(site: Site, before: object, name: str) -> None:
    sent = files()[name]
    answer = site.search(site.upload(sent.make().replace(b"CANARY", site.canary.encode())))
    messages = sent.messages if sent.public else (NO_PICTURE,)
    assert ("event: complete" in answer) is (messages == (READ,)), answer
    assert any(message in answer for message in messages), answer


@pytest.mark.parametrize(
    "name",
    [
        "../../../../etc/cron.d/x.png",
        "..\\..\\x.png",
        "/etc/passwd",
        "x" * 5000 + ".png",
        "a\nb\r\nX-Injected: 1.png",
        "a\0b.png",
        "\"><script>alert(1)</script>.png",
        "$(touch ran).png",
        "`touch ran`.png",
        "-rf.png",
        "\u202egnp.exe",
        "con.png",
        ".env",
        ".",
        "..",
        "",
        "%2e%2e%2fx.png",
        "{0.__class__}.png",
        "x.svg",
        "x.html",
        "x.py",
    ],
)  # fmt: skip
def test_uploads_are_stored_under_safe_names(site: Site, name: str) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + small() + b"\r\n--x--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = site.client.post("/gradio_api/upload", content=body, headers=form)
    site.clean(reply.text)
    assert "x-injected" not in reply.headers
    if reply.status_code != 200:
        assert reply.status_code in (400, 413)
        return
    [path] = reply.json()
    assert re.fullmatch(r".*/uploads/lookalike-uploads-[^/]+/files/[0-9a-f]{64}/[^/]+", path)
    assert "event: complete" in site.search(path)
    shown = site.client.get(f"/gradio_api/file={urllib.parse.quote(path)}")
    assert shown.status_code == 200
    kind = shown.headers["content-type"]
    assert kind == "image/png" or "attachment" in shown.headers["content-disposition"], "could be opened as a page"


# Addresses and files


FORMS = [
    "http://127.0.0.1:PORT/x",
    "http://localhost:PORT/x",
    "http://localhost.:PORT/x",
    "http://2130706433:PORT/x",
    "http://0x7f000001:PORT/x",
    "http://0177.0.0.1:PORT/x",
    "http://127.1:PORT/x",
    "http://[::1]:PORT/x",
    "http://[::ffff:127.0.0.1]:PORT/x",
    "http://user:password@127.0.0.1:PORT/x",
    "http://127.0.0.1:PORT#@localhost/x",
    "http://127.0.0.1:PORT/redirect",
    "HTTP://127.0.0.1:PORT/x",
    "http:/\\127.0.0.1:PORT/x",
    "//127.0.0.1:PORT/x",
    "\\\\127.0.0.1\\x",
    "https://127.0.0.1:PORT/x",
    "ftp://127.0.0.1:PORT/x",
    "gopher://127.0.0.1:PORT/x",
    "dict://127.0.0.1:PORT/x",
    "data:http://127.0.0.1:PORT/x",
    "jar:http://127.0.0.1:PORT/x!/",
    "http://127.0.0.1:PORT/\r\nX-Injected: 1",
]


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_url_is_fetched(site: Site, form: str) -> None:
    address = form.replace("PORT", site.canary.rpartition(":")[2])
    for image in (address, {"path": address, "url": address, **FILE}, {"path": address}, {"url": address}):
        answer = site.post("search", [image, *TAIL.values()])
        assert "event: error" in answer, answer
    quoted = urllib.parse.quote(address, safe="")
    for door in ("file=", "file/", "proxy=", "stream/", "custom_component/"):
        status, _ = site.ask("GET", f"/gradio_api/{door}{quoted}")
        assert status >= 400, door


UP = "%2e%2e%2f" * 12
FILES = """
    INDEX/icons/manifest.json INDEX ROOT/app.py ROOT/README.md ROOT/.git/config HOME/.bashrc app.py .env README.md
    UPLOADS/../lock retrieval/settings.py ../app.py /etc/passwd /etc/hostname /proc/self/environ /proc/self/cmdline
    /proc/1/environ /dev/zero /dev/stdin / . .. ~ ~/.ssh/id_rsa UPLOADS UPLOADS/../index/icons/manifest.json
    UPLOADS/shown UPLOADS/shown/examples/icons/../../../../app.log UPLOADS/shown/examples/icons
    UPLOADS/shown/examples/icons/%2e%2e/%2e%2e/x.png UPLOADS/shown/examples/icons/metadata.csv
    UPLOADS/shown/icons/BUILD/../items.parquet
    UPLOADS/shown/icons/BUILD/manifest.json UPLOADS/shown/icons/BUILD/000000/../../items.parquet
    UPLOADS/shown/icons/BUILD/000000/000000999999.jpg UPLOADS/shown/icons/../icons/BUILD/000000/000000000001.jpg
    UPLOADS/shown/icons/nothing/000000/000000000001.jpg %00 /etc/passwd%00.png file:///etc/passwd UP/etc/passwd
    ..%5c..%5cetc%5cpasswd %252e%252e%252fetc%252fpasswd
"""
PATHS = """
    /static/UP/etc/passwd /assets/UP/etc/passwd /svelte/UP/etc/passwd /static/../../../../etc/passwd
    /gradio_api/custom_component/x/client/component/UP/etc/passwd /gradio_api/stream/x/y/1/UP/etc/passwd.ts
    /gradio_api/stream/x/y/1/playlist.m3u8 /gradio_api/file/etc/passwd /gradio_api/proxy=http://127.0.0.1:1/
    /gradio_api/deep_link?session_hash=x /gradio_api/vibe-code /gradio_api/dev/reload /monitoring /monitoring/summary
    /gradio_api/profiling/summary /.env /.git/config /app.py /index/icons/manifest.json /gradio_api/run-history/records
    /gradio_api/call/search/../../../etc/passwd /pwa_icon/99999999999
    /gradio_api/queue/data?session_hash=of-somebody-else /gradio_api/call/search/of-somebody-else
    /gradio_api/upload_progress?upload_id=of-somebody-else
"""


@pytest.fixture(scope="module")
def path_values(site: Site) -> dict[str, str]:
    """The values of the placeholders in the paths above; some thumbnails are already published."""
    site.post("run", [None, "red", "", 0.5, [], 1, None, "icons", "clip", "cosine", "exact", 1, None])
    return {
        "INDEX": str(site.index),
        "ROOT": str(ROOT),
        "HOME": str(Path.home()),
        "UPLOADS": str(Path(site.upload(small())).parents[1]),
        "BUILD": next((site.index / "icons").glob("snapshot-*")).name,
        "UP": "%2e%2e%2f" * 12,
    }


@pytest.mark.parametrize("path", [*(f"/gradio_api/file={path}" for path in FILES.split()), *PATHS.split()])
def test_server_files_cannot_be_read_by_any_path(site: Site, path_values: dict[str, str], path: str) -> None:
    for name, value in path_values.items():
        path = re.sub(rf"\b{name}\b", value, path)
    status, body = site.raw(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    known = ("session_not_found", "event: error", "Session not found")
    assert status >= 400 or any(each in body for each in known), (status, body[:300])
    assert not re.search(r"root:|\"schema|def main|\[core\]|PAR1", body)
    assert SECRET not in body


def test_pictures_on_the_page_are_served(site: Site, path_values: dict[str, str]) -> None:
    """The control for the paths above: pictures on the page have the same kind of path."""
    for shown in (f"icons/{path_values['BUILD']}/000000/000000000001.jpg", "examples/icons/castle.png"):
        path = f"/gradio_api/file={path_values['UPLOADS']}/shown/{shown}"
        assert site.client.get(path).headers["content-type"] in ("image/jpeg", "image/png")


# Headers and sessions


@pytest.mark.parametrize("endpoint", [*DEFAULTS, "run", "sweep", "evaluate_gallery"])
@pytest.mark.parametrize("way", ["run", "api"])
def test_queue_cannot_be_bypassed(site: Site, endpoint: str, way: str) -> None:
    status, text = site.ask("POST", f"/gradio_api/{way}/{endpoint}", json={"data": []})
    assert status == 404
    assert "join the queue" in text or "Not Found" in text


@pytest.mark.parametrize("component", [0, 7, 8, 11, -1, 10**6])
@pytest.mark.parametrize("name", ["thumbnail", "preprocess", "__init__", "get_config", "__class__", "../x"])
def test_only_public_component_functions_can_be_called(site: Site, component: int, name: str) -> None:
    call = {"data": ["icons", "../..", 0], "component_id": component, "session_hash": "s", "fn_name": name}
    status, _ = site.ask("POST", "/gradio_api/component_server", json=call)
    assert status in (404, 500)


@pytest.mark.parametrize(
    ("method", "path", "sent", "statuses"),
    [
        (
            "POST",
            "/gradio_api/process_recording",
            {"files": {"video": ("x.mp4", b"#EXTM3U\nfile:///x")}},
            {404},
        ),
        ("POST", "/gradio_api/vibe-edit", {"json": {"prompt": "x"}}, {404}),
        ("POST", "/gradio_api/vibe-code/", {"json": {"code": "x"}}, {404}),
        ("GET", "/gradio_api/deep_link?session_hash=s", {}, {404}),
        ("POST", "/gradio_api/upload", {"content": b"x"}, {400}),
        ("POST", "/gradio_api/upload", {"headers": {"Content-Type": "multipart/form-data"}, "content": b"x"}, {400}),
        ("POST", "/gradio_api/upload", {"files": [("files", (str(n), b"x")) for n in range(1200)]}, {400}),
        ("POST", "/gradio_api/upload", {"data": {str(n): "x" for n in range(1200)}, "files": {"x": b""}}, {400}),
        ("POST", "/gradio_api/upload", {"files": {"files": ("x.png", bytes(MAX_BYTES + 1))}}, {413}),
        ("POST", "/gradio_api/upload", {"files": {"files": ("x.png", bytes(MAX_BYTES + FORM_BYTES + 1))}}, {413}),
        ("POST", "/gradio_api/call/search", {"content": (bytes(2**20) for _ in range(14))}, {413}),
        ("POST", "/gradio_api/mcp/", {"content": (bytes(2**20) for _ in range(14))}, {413}),
        ("POST", "/gradio_api/mcp/", {"json": nested(900)}, {400, 406, 500}),
        ("POST", "/gradio_api/cancel", {"json": {"session_hash": "x", "fn_index": 1, "event_id": "x"}}, {404}),
        ("POST", "/gradio_api/reset", {"json": {"event_id": "x"}}, {200}),
        ("POST", "/login", {"data": {"username": "x", "password": "y"}}, {302}),
        ("PUT", "/gradio_api/upload", {}, {405}),
        ("DELETE", "/gradio_api/file=app.py", {}, {405}),
        ("PATCH", "/config", {}, {405}),
        ("TRACE", "/", {}, {405}),
        ("OPTIONS", "/config", {}, {200, 405}),
        ("X" * 1000, "/", {}, {400, 405}),
        ("GET", "/" + "x" * 60_000, {}, {400, 404, 414, 431}),
        ("GET", "/?" + "&".join(f"label={n}" for n in range(5000)), {}, {200}),
        ("GET", "/", {"headers": {"Host": "evil.example"}}, {200}),
        ("GET", "/config", {"headers": {"Host": "{0}'\"<script>"}}, {200, 400}),
        ("GET", "/config", {"headers": {"X-Forwarded-Host": "[::1"}}, {400}),
        ("GET", "/config", {"headers": {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "javascript"}}, {200}),
        ("GET", "/config", {"headers": {"Origin": "http://evil.example", "Host": "localhost"}}, {200, 400, 403}),
        ("GET", "/config", {"headers": {"X-Forwarded-For": "127.0.0.1", "X-Gradio-User": "mcp"}}, {200}),
        ("GET", "/config", {"headers": {"Cookie": "access-token=x; " + "a" * 8000}}, {200, 400, 431}),
        ("GET", "/config", {"headers": {"Range": "bytes=0-99999999999999999999"}}, {200, 206, 416}),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_unexpected_requests_are_refused(
    site: Site, method: str, path: str, sent: dict[str, Any], statuses: set[int]
) -> None:
    assert site.ask(method, path, **sent)[0] in statuses


def test_requests_on_which_gradio_fails_are_answered_and_cannot_fill_the_log(site: Site) -> None:
    log = site.index.with_name("app.log")
    join = {"data": [], "session_hash": "a"}

    def ask_all() -> int:
        """Send each request, and return the size of the log afterwards."""
        for method, path, sent in (
            ("POST", "/gradio_api/call/unknown", {"json": {"data": []}}),
            ("POST", "/gradio_api/call/v2/query", {"json": {"unknown": 1}}),
            ("POST", "/gradio_api/queue/join", {"json": join | {"fn_index": 10**30}}),
            ("POST", "/gradio_api/queue/join", {"json": join | {"fn_index": -1}}),
            ("GET", "/assets/" + "a" * 5000, {}),
        ):
            status, text = site.ask(method, path, **sent)
            assert status == 500
            assert FAILED in json.loads(text.partition("\n")[2])["detail"]
        return log.stat().st_size

    size = ask_all()
    assert "FnIndexInferError" in log.read_text()
    assert ask_all() == size


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"POST /gradio_api/call/search HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nG\r\n",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /gradio_api/call/search HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
        b"POST /gradio_api/call/search HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\xff\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    ],
    ids=lambda sent: str(sent[:30]),
)  # fmt: skip
def test_malformed_http_is_refused(site: Site, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(site.address).port), timeout=PATIENCE) as line:
        line.sendall(sent)
        line.shutdown(socket.SHUT_WR)
        answer = line.makefile("rb").read()
    site.clean(answer.decode("utf-8", "replace"))
    assert not answer or int(answer.split(b" ", 2)[1]) >= 400 or sent.startswith(b"GET http"), answer[:200]


@pytest.mark.parametrize("path", ["mcp/", "call/query", "queue/join"])
def test_long_call_without_a_length_is_refused(site: Site, path: str) -> None:
    """It arrives in chunks, and is refused once they are too long together."""
    pieces = (b" " * 2**20 for _ in range(MAX_CALL // 2**20 + 1))
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    answer = site.client.post(f"/gradio_api/{path}", content=pieces, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (413, bodies.TOO_LARGE)


def test_slow_senders_do_not_block_other_searches(site: Site, before: tuple[str, float]) -> None:
    head = b"POST /gradio_api/call/search HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"
    lines = [socket.create_connection(("127.0.0.1", httpx.URL(site.address).port)) for _ in range(200)]
    for line in lines:
        line.sendall(head)
    try:
        assert search_hits(site) == before[0]
    finally:
        for line in lines:
            line.close()


def test_uploads_of_other_visitors_can_only_be_reached_by_their_full_path(site: Site) -> None:
    path = Path(site.upload(small(size=(31, 17))))
    for other in (path.parent, path.parents[1], path.with_name("other.png"), path.parent / ".." / path.parent.name):
        answer = site.search(str(other))
        assert "event: error" in answer, other
    assert len(path.parent.name) == 64, "the path can be guessed"


# Floods


def test_flood_of_calls_is_refused_and_memory_stays_bounded(site: Site, before: tuple[str, float]) -> None:
    """300 calls from sessions that never fetch their results, and one visitor among them."""
    first = site.memory()
    body = {"data": list((DEFAULTS["query"] | {"top_k": 1800}).values())}

    def call(number: int) -> int:
        return site.client.post("/gradio_api/call/query", json=body | {"session_hash": f"flood {number}"}).status_code

    with ThreadPoolExecutor(16) as crowd:
        found = set(crowd.map(call, range(300)))
    assert found <= {200, 503}, found
    status = site.client.get("/gradio_api/queue/status").json()
    assert status["queue_size"] <= WAITING
    # Until the sessions of the flood count as abandoned.
    wait_until(lambda: "refused: 503" not in site.post("query", list(DEFAULTS["query"].values())))
    assert search_hits(site) == before[0]
    assert site.memory() - first < 400


def test_aborted_uploads_leave_no_files(site: Site) -> None:
    uploads = Path(site.upload(small())).parents[1]

    def kept() -> set[Path]:
        return {path for path in uploads.iterdir() if path.is_file()}

    left = kept()
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(300_000)
    request = "POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", httpx.URL(site.address).port)) as line:
            line.sendall(f"{request}Content-Length: {10**7}\r\n\r\n".encode() + head)
    site.upload(small())
    wait_until(lambda: not kept() - left, lambda: f"expected {left}, found {kept()}")


@pytest.mark.parametrize("kinds", [("application/json", "multipart/form-data"), ("multipart/form-data", "text/plain")])
def test_call_with_two_content_types_has_the_limits_of_a_call(site: Site, kinds: tuple[str, str]) -> None:
    """No matter which of the two headers later code reads."""
    headers = [("Content-Type", f"{kind}; boundary=x") for kind in kinds]
    for body in (b'{"data": [' + b"[]," * 200_000 + b"[]]}", bytes(MAX_CALL + 1)):
        reply = site.client.post("/gradio_api/call/search", content=body, headers=headers)
        assert (reply.status_code, reply.json()) == (413, {"detail": bodies.TOO_LARGE})


# In a browser


@pytest.mark.browser
def test_browser_runs_and_fetches_nothing_from_a_dataset_or_a_link(
    tmp_path: Path, browser: Browser, queries: Path, site: Site
) -> None:
    """Ids, labels, captions, links and file names are untrusted; as HTML, they would send requests to the canary."""
    evil = (
        f"</script><img src={site.canary}/a.png onerror=window.hacked=1>![x]({site.canary}/b.png)"
        f"[x](javascript:window.hacked=1)${{window.hacked=1}}{{{{x}}}}<svg onload=window.hacked=1>"
    )
    pictures = [{"bytes": small(size=(24, 20 + number))} for number in range(8)]
    texts = {
        "id": [f"{evil} {n}" for n in range(8)],
        "label": [evil, "tame"] * 4,
        "caption": [f"{n} {evil}" for n in range(8)],
    }
    kinds = Features({"image": Image(), **dict.fromkeys(texts, Value("string"))})
    Dataset.from_dict({"image": pictures, **texts}, kinds).to_parquet(tmp_path / "x.parquet")
    root = tmp_path / "index"
    flags = ["--index", str(root), "--dataset", str(tmp_path / "x.parquet"), "--model", "mini", "--map", "tsne"]
    assert index_builder.main([*flags, "--label-column", "label", "--caption-column", "caption"]) == 0
    searcher = Searcher(Indexes(root))
    with served(searcher, settings_of(root)) as address:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        requested: set[str] = set()
        page.on("request", lambda request: requested.add(request.url))
        page.on("dialog", lambda dialog: requested.add(dialog.message))
        names = ("text", "without", "label", "gallery", "id", "more", "less", "region", "features", "metric", "k")
        page.goto(f"{address}/?{urllib.parse.urlencode(dict.fromkeys(names, evil))}")
        expect(hits(page).first).to_contain_text("onerror")
        page.goto(f"{address}/?{urllib.parse.urlencode({'text': 'red', 'label': evil, 'gallery': 'x'})}")
        expect(hits(page)).to_have_count(4)
        search_with(page, hits(page).first)
        expect(page.locator("#trail .thumbnail-item, #query img").first).to_be_visible()
        for tab, shown in (("Compare", "#compare_note"), ("Map", "#map_note"), ("Robustness", "#robustness_note")):
            open_tab(page, tab)
            expect(page.locator(shown)).not_to_be_empty()
        open_tab(page, "Evaluate")
        page.locator("#evaluate_query").click()
        expect(page.locator("#figures_plot img")).to_be_visible()
        name = "<img src=x onerror=window.hacked=1>.png"
        for content, shown in ((b"no image", "#results .lanes-note"), (small(), "#query img")):
            assert page.evaluate("window.hacked") is None
            page.goto(address)
            wait_until_loaded(page)
            page.locator("#choose input[type=file]").set_input_files(
                {"name": name, "mimeType": "image/png", "buffer": content}
            )
            expect(page.locator(shown).first).to_be_visible()
        assert page.evaluate("window.hacked") is None
        context.close()
    searcher.indexes.close()
    assert not [url for url in requested if not url.startswith((address, "blob:", "data:"))]


# After all attacks


def test_app_still_works_and_has_hardly_grown(site: Site, before: tuple[str, float]) -> None:
    check_after_attacks(site, before)
