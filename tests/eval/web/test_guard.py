"""What reaches Gradio, and what does not."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from eval.web.guard import LONGEST, LOOPBACK, Guard, Rules

HOME = {"host": "127.0.0.1:7860"}


@pytest.fixture
def call(tmp_path):
    """Call a guarded app; returns the status, and what the app got: 200 and the request's body where it was reached."""
    (tmp_path / "v.mp4").write_text("")

    def call(method, path, body=b"", headers=HOME, hosts=LOOPBACK, kind="http", chunk=70_000):
        chunks = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b""]
        waiting = [
            {"type": "http.request", "body": part, "more_body": i + 1 < len(chunks)} for i, part in enumerate(chunks)
        ]
        sent, got = [], []

        async def receive():
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        async def app(scope, receive, send):
            while (message := await receive())["type"] == "http.request":
                got.append(message["body"])
            await send({"type": "http.response.start", "status": 200, "headers": []})

        given = {"content-length": str(len(body)), **headers} if method == "POST" else headers
        pairs = [(name.encode(), value.encode()) for name, value in given.items() if value is not None]
        scope = {"type": kind, "method": method, "path": path, "headers": pairs}
        asyncio.run(Guard(app, Rules(tmp_path, 2_000_000, hosts))(scope, receive, send))
        return sent[0].get("status", sent[0]["type"]), b"".join(got)

    return call


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/theme.css", "/assets/index.js", "/static/fonts/a.woff2", "/gradio_api/heartbeat/ab12"],
)
def test_the_page_is_let_through(call, path):
    assert call("GET", path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=https://example.com/",
        "/gradio_api/run-history/buckets",
        "/monitoring",
        "/docs",
        "/gradio_api/process_recording",
        "/gradio_api/openapi.json",
        "/assets",
        "/config/../docs",
    ],
)
def test_what_the_page_never_asks_for_is_not_there(call, path):
    assert call("GET", path)[0] == 404
    assert call("POST", path)[0] == 404
    assert call("DELETE", "/")[0] == 404


def test_only_uploads_are_served(call, tmp_path):
    assert call("GET", f"/gradio_api/file={tmp_path}/v.mp4")[0] == 200
    (tmp_path / "link").symlink_to("/etc")
    for path in (
        "/etc/hostname",
        f"{tmp_path}/../x",
        f"{tmp_path}/link/hostname",
        "v.mp4",
        "https://example.com/v.mp4",
    ):
        assert call("GET", f"/gradio_api/file={path}")[0] == 403, path


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:7860"},
        {"host": None},
        {**HOME, "origin": "https://evil.example"},
        {**HOME, "origin": "http://127.0.0.1:9999"},
        {**HOME, "origin": "null"},
    ],
    ids=str,
)
def test_other_sites_are_refused(call, headers):
    assert call("GET", "/", headers=headers)[0] == 403
    assert call("POST", "/gradio_api/upload", headers=headers)[0] == 403


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "[::1]:80"])
def test_this_machine_is_not(call, host):
    assert call("GET", "/", headers={"host": host, "origin": f"http://{host}"})[0] == 200


def test_with_host_the_server_has_any_name(call):
    assert call("GET", "/", headers={"host": "gpu.example"}, hosts=None)[0] == 200
    assert call("GET", "/", headers={"host": "gpu.example", "origin": "http://evil.example"}, hosts=None)[0] == 403


def test_sizes(call):
    upload, say = "/gradio_api/upload", "/gradio_api/queue/join"
    assert call("POST", upload, headers={**HOME, "content-length": "2100000"})[0] == 200
    assert call("POST", upload, headers={**HOME, "content-length": "3000001"})[0] == 413
    assert call("POST", upload, headers={**HOME, "content-length": None})[0] == 411
    assert call("POST", upload, headers={**HOME, "content-length": "-1"})[0] == 411
    assert call("POST", say, headers={**HOME, "content-length": str(LONGEST + 1)})[0] == 413
    long = b'"' + LONGEST * b"a" + b'"'  # says that it is short
    assert call("POST", say, long, headers={**HOME, "content-length": "2"})[0] == 413


def test_what_is_said_arrives_unchanged(call, tmp_path):
    said = json.dumps({"data": [{"path": f"{tmp_path}/v.mp4"}, "a <question> ü", None, 25, 300_000 * "x"]}).encode()
    assert call("POST", "/gradio_api/queue/join", said) == (200, said)
    assert call("POST", "/gradio_api/cancel", b"") == (200, b"")


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "https://example.com/v.mp4", "v.mp4", "", 3, ["/etc"], {"path": "/etc"}]
)
def test_no_other_file_can_be_named(call, path):
    for said in ({"path": path}, {"data": [[{"a": {"path": path, "meta": {"_type": "gradio.FileData"}}}]]}):
        assert call("POST", "/gradio_api/queue/join", json.dumps(said).encode()) == (403, b"")


@pytest.mark.parametrize("said", [b"{", b"\xff", 90_000 * b"["])
def test_what_is_no_json(call, said):
    assert call("POST", "/gradio_api/queue/join", said) == (400, b"")


def test_no_websockets(call):
    assert call("GET", "/", kind="websocket")[0] == "websocket.close"


# ---- in front of Gradio


def test_a_server_file_cannot_be_the_video(server, clip):
    own = httpx.post(f"{server.url}/gradio_api/upload", files={"files": ("v.mp4", clip.read_bytes())})
    (path,) = own.json()
    assert httpx.get(f"{server.url}/gradio_api/file={path}").content == clip.read_bytes()
    for other in ("/etc/hostname", str(clip)):
        file = {"path": other, "meta": {"_type": "gradio.FileData"}}
        said = {"data": [file], "fn_index": 1, "session_hash": "abc"}
        assert httpx.post(f"{server.url}/gradio_api/queue/join", json=said).status_code == 403
        assert httpx.get(f"{server.url}/gradio_api/file={other}").status_code == 403


def test_gradio_alone_refuses_it_too(server, clip, monkeypatch):
    """The guard is a second line. `take` is the function behind a change of the video."""
    monkeypatch.setattr("eval.web.guard.Guard._require_upload", lambda self, path: None)
    config = httpx.get(f"{server.url}/config").json()
    (take,) = [one["id"] for one in config["dependencies"] if [target[1] for target in one["targets"]] == ["change"]]
    said = {"data": [{"path": str(clip), "meta": {"_type": "gradio.FileData"}}], "fn_index": take, "session_hash": "q1"}
    assert httpx.post(f"{server.url}/gradio_api/queue/join", json=said).status_code == 200
    with httpx.stream("GET", f"{server.url}/gradio_api/queue/data?session_hash=q1", timeout=20) as events:
        told = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
    (done,) = [one for one in told if one["msg"] == "process_completed"]
    assert not done["success"]


def test_uploads_are_sent_back_as_files_not_pages(server):
    hostile = {"files": ("page.html", b"<script>alert(1)</script>")}
    (path,) = httpx.post(f"{server.url}/gradio_api/upload", files=hostile).json()
    back = httpx.get(f"{server.url}/gradio_api/file={path}")
    assert back.headers["content-disposition"].startswith("attachment")
    assert "html" not in back.headers["content-type"]


def test_browsers_are_told_to_load_nothing_from_elsewhere(server):
    policy = httpx.get(server.url).headers["content-security-policy"]
    assert set(policy.partition(";")[0].split()) == {
        *("default-src", "'self'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:")
    }


def test_too_large_an_upload_is_not_kept(server):
    before = set(server.files())
    large = {"files": ("v.mp4", bytes(1_000_001))}
    assert httpx.post(f"{server.url}/gradio_api/upload", files=large).status_code == 413
    assert set(server.files()) == before
