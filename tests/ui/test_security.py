"""What SECURITY.md promises, tried on the whole app: its routes are read from the app, so a new one is covered."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import app as studio
from bgpo.presets import PRESETS
from storage.runs import create_run, list_runs
from ui.access import FREE_TRIES, LOOPBACK, Access
from ui.limits import MAX_BODY, Limits

ROOT = Path(studio.__file__).parent
PASSWORD = "open sesame"
SECRET = "the-secret-of-this-test"
PATHS = (
    "../../secret.txt", "..%2f..%2fsecret.txt", "....//....//secret.txt", "%2e%2e/%2e%2e/secret.txt", "{outside}",
    "/{outside}", "//{outside}", "{inside}/../{name}", "secret.txt%00.png", "link",
)
QUERIES = ("' OR 1=1 --", "'; DROP TABLE run; --", '" OR "" = "', "%", "1 UNION SELECT * FROM run", "\x00", "9" * 400)


@dataclass(frozen=True)
class Endpoint:
    """One route of the app."""

    path: str
    methods: tuple[str, ...]
    queries: tuple[str, ...]

    def address(self, value: str = "1") -> str:
        """The path with every part that a client chooses set to `value`."""
        return re.sub(r"\{[^}]*\}", lambda _: value, self.path)


def endpoints(routes: list[BaseRoute], prefix: str = "") -> Iterator[Endpoint]:
    for route in routes:
        if isinstance(route, Mount):
            yield from endpoints(route.routes, prefix + route.path)
        elif isinstance(route, Route):
            dependant = getattr(route, "dependant", None)
            queries = tuple(field.alias for field in dependant.query_params) if dependant else ()
            yield Endpoint(prefix + route.path, tuple(sorted(route.methods or ())), queries)
        elif hasattr(route, "original_router") or hasattr(route, "routes"):
            yield from endpoints(getattr(route, "routes", None) or route.original_router.routes, prefix)


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """A data folder in a folder that holds a secret, with one run whose log is a link to it."""
    around = tmp_path_factory.mktemp("around")
    (around / "secret.txt").write_text(SECRET)
    opened = studio.open_data(around / "data", None)
    config = PRESETS["adder"].config()
    run = create_run(opened.db, name="a run", config_json=config.to_json(), train_steps=60,
                     runs_folder=opened.runs_folder, status="stopped")
    Path(run.folder, "link").symlink_to(around / "secret.txt")
    return opened


@pytest.fixture(scope="module")
def whole(services):
    """The app with every page, and its routes."""
    return studio.build(services, LOOPBACK, None)


@pytest.fixture(scope="module")
def routes(whole) -> list[Endpoint]:
    return list(endpoints(whole.app.app.routes))


@pytest.fixture(scope="module")
def client(whole) -> TestClient:
    return TestClient(whole, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture
def locked(services) -> TestClient:
    return TestClient(
        studio.build(services, None, PASSWORD), base_url="http://box.example", raise_server_exceptions=False,
        follow_redirects=False,
    )


def test_the_routes_are_found(routes):
    paths = {route.path for route in routes}
    assert {"/api/live", "/api/runs", "/api/runs/{run_id}", "/assets/{name:asset_name}"} <= paths
    assert any("queue/join" in path for path in paths)


def test_every_route_asks_for_the_password(locked, routes):
    for route in routes:
        for method in route.methods:
            answer = locked.request(method, route.address())
            assert answer.status_code in (401, 404), f"{method} {route.path} answers to a stranger"
            assert SECRET not in answer.text


def test_what_gradio_offers_beyond_this_app_is_closed(client, routes):
    closed = "vibe|proxy=|dev/reload|monitoring|process_recording|upload"
    paths = [route for route in routes if re.search(closed, route.path)]
    assert len(paths) > 10
    for route in paths:
        for method in route.methods:
            assert client.request(method, route.address("x")).status_code == 404, f"{method} {route.path} is open"


def test_a_web_socket_asks_for_the_password(locked, whole):
    sockets = [route for route in whole.app.app.routes if isinstance(route, WebSocketRoute)]
    for path in {"/ws", *(route.path for route in sockets)}:
        with pytest.raises(WebSocketDisconnect), locked.websocket_connect(path):
            pass


def test_every_route_refuses_another_host_and_another_site(client, routes):
    for route in routes:
        for method in route.methods:
            strange = client.request(method, route.address(), headers={"host": "evil.example"})
            assert strange.status_code == 400, f"{method} {route.path} answers to any host"
            if method not in ("GET", "HEAD", "OPTIONS"):
                crossed = client.request(method, route.address(), headers={"origin": "http://evil.example"})
                assert crossed.status_code == 403, f"{method} {route.path} can be posted to from another site"


@pytest.mark.parametrize("attack", PATHS)
def test_no_path_leads_out_of_the_data_folder(client, routes, services, attack):
    outside = services.data_dir.parent / "secret.txt"
    value = attack.format(outside=outside, inside=services.data_dir, name=outside.name)
    for route in routes:
        if "{" in route.path and "GET" in route.methods and "heartbeat" not in route.path:  # which never ends
            answer = client.get(route.address(value))
            assert SECRET not in answer.text, f"{route.path} gave away a file with {value}"


@pytest.mark.parametrize("name", ("bgpo.db", "runs/1/config.json", "../secret.txt"))
def test_gradio_serves_no_file_of_the_data_folder(client, services, name):
    for path in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
        answer = client.get(f"{path}{services.data_dir / name}")
        assert answer.status_code in (403, 404), f"{path}{name} answered {answer.status_code}"


@pytest.mark.parametrize("text", QUERIES)
def test_a_query_is_data_and_never_sql(client, routes, services, text):
    for route in routes:
        if route.path.startswith("/api") and "GET" in route.methods:
            for name in route.queries:
                answer = client.get(route.address(), params={name: text})
                assert answer.status_code < 500, f"{route.path}?{name}= answered {answer.status_code}: {answer.text}"
    assert [run.name for run in list_runs(services.db)] == ["a run"]


@pytest.mark.parametrize("body", ("[]", "null", "{", '"a"', json.dumps({"values": {"seed": 1e400}}), "{}" * 1000))
def test_a_strange_body_is_refused_in_words(client, routes, services, body):
    for route in routes:
        if route.path.startswith("/api") and "POST" in route.methods:
            answer = client.post(route.address("999"), content=body, headers={"content-type": "application/json"})
            assert answer.status_code < 500, f"{route.path} answered {answer.status_code}: {answer.text}"
    assert len(list_runs(services.db)) == 1


def test_an_oversized_body_is_refused_by_every_route(client, routes):
    lie = {"content-type": "application/json", "content-length": str(MAX_BODY + 1)}
    for route in routes:
        if "POST" in route.methods and "upload" not in route.path and "archives" not in route.path:
            answer = client.post(route.address(), content=b"{}", headers=lie)
            assert answer.status_code == 413, f"{route.path} takes bodies of any length"


def test_a_body_without_a_length_is_counted():
    async def echo(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"taken"})

    small = TestClient(Limits(echo, max_body=1000))
    assert small.post("/", content=iter([b"x" * 400] * 2)).status_code == 200
    refused = small.post("/", content=iter([b"x" * 400] * 3))
    assert refused.status_code == 413 and "send less" in refused.json()["error"]


@pytest.mark.parametrize("way", ["br", "gzip"])
def test_the_page_itself_is_compressed(client, way):
    page = client.get("/", headers={"accept-encoding": way})
    assert page.headers["content-encoding"] == way
    assert int(page.headers["content-length"]) < 80_000 < len(page.content)
    assert "content-encoding" not in client.get("/nothing", headers={"accept-encoding": way}).headers


def test_answers_keep_browsers_strict(client):
    for path in ("/", "/api/live", "/assets/live.js", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "SAMEORIGIN"


def test_a_login_is_a_strict_cookie_that_no_script_reads_and_nobody_guesses(locked):
    cookie = locked.post("/login", data={"password": PASSWORD}).headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    assert len(re.search(r"bgpo_login=([0-9a-f]+)", cookie).group(1)) == 64


def test_a_changed_ticket_and_one_of_an_earlier_start_open_nothing(locked, services):
    cookie = locked.post("/login", data={"password": PASSWORD}).headers["set-cookie"]
    ticket = re.search("bgpo_login=([0-9a-f]+)", cookie)[1]
    assert locked.get("/api/live", headers={"cookie": f"bgpo_login={ticket}"}).status_code == 200
    started_again = TestClient(studio.build(services, None, PASSWORD), base_url="http://box.example")
    for given in (ticket[:-1], ticket + "0", ticket[:-1] + ("0" if ticket[-1] != "0" else "1"), "", "0" * 64):
        locked.cookies.clear()
        assert locked.get("/api/live", headers={"cookie": f"bgpo_login={given}"}).status_code == 401
    assert started_again.get("/api/live", headers={"cookie": f"bgpo_login={ticket}"}).status_code == 401


@pytest.mark.parametrize("attack", PATHS)
def test_no_name_in_a_body_leads_out_of_the_data_folder(client, services, attack):
    """A name of a run, a tag, a checkpoint to start from, of a file for Gradio, which takes none: none is a path."""
    outside = services.data_dir.parent / "secret.txt"
    value = attack.format(outside=outside, inside=services.data_dir, name=outside.name)
    before = sorted(services.data_dir.parent.rglob("*"))
    for path, body in (
        ("/api/runs", {"preset": "adder", "values": {"start_from": f"run:1@{value}"}}),
        ("/api/runs", {"preset": value, "values": {}}), ("/api/runs/1/labels", {"tags": [value], "notes": value}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code < 500 and SECRET not in answer.text, f"{path} answered {answer.status_code}"
    sent = {"files": (value.replace("\x00", "%00"), b"written by an upload")}
    assert client.post("/gradio_api/upload", files=sent).status_code == 404
    assert outside.read_text() == SECRET
    new = set(services.data_dir.parent.rglob("*")) - set(before)
    assert all(path.is_relative_to(services.data_dir) for path in new)
    assert len(list_runs(services.db)) == 1


def test_another_site_can_have_nothing_made_here(client):
    """Not even by what changes nothing: an archive that a browser asks for is built on the disk."""
    for path in ("/api/runs/1/archive", "/api/live"):
        assert client.get(path, headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert client.get(path, headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link to the app


@pytest.mark.parametrize("host, header, status", [
    ("127.0.0.2", "127.0.0.2:7860", 200), ("127.0.0.2", "localhost", 200), ("127.0.0.1", "127.0.0.2", 400),
    ("localhost", "evil.example", 400), ("::1", "[::1]:7860", 200),
])
def test_an_app_answers_to_the_address_that_it_listens_on(host, header, status):
    async def app(scope, receive, send):
        await PlainTextResponse("here")(scope, receive, send)

    asked = TestClient(Access(app, studio.hosts_of(host)), base_url="http://localhost")
    assert asked.get("/", headers={"host": header}).status_code == status


@pytest.mark.parametrize("body, headers, status", [
    ("[" * 30_000, {"content-type": "application/json"}, 400),
    ("{}", {"content-type": "application/json", "origin": "http://["}, 403),
])
def test_nonsense_is_refused_and_not_stumbled_over(client, body, headers, status):
    assert client.post("/api/runs", content=body, headers=headers).status_code == status


def test_guessing_the_password_becomes_slow(locked):
    for _ in range(FREE_TRIES):
        assert locked.post("/login", data={"password": "guess"}).status_code == 401
    waiting = locked.post("/login", data={"password": PASSWORD})
    assert waiting.status_code == 429 and "try again" in waiting.text
    assert locked.get("/api/live", auth=("anyone", PASSWORD)).status_code == 401


def test_nothing_that_is_loaded_or_run_can_be_code():
    """No pickle, no eval, no shell, no remote code anywhere in the product, but for the one program made for that."""
    wrong = []
    for folder in ("app.py", "bgpo", "storage", "ui", "benchmarks"):
        for path in [ROOT / folder] if folder.endswith(".py") else sorted((ROOT / folder).rglob("*.py")):
            wrong += [f"{path.relative_to(ROOT)}: {what}" for what in dangers(ast.parse(path.read_text()))]
    # what runs a model's programs does so after it has locked itself in
    assert set(wrong) == {"bgpo/tasks/sandbox_child.py: calls exec"}


def dangers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            unsafe = {"pickle", "dill", "joblib", "shelve"}
            yield from (f"imports {name}" for name in names if name.split(".")[0] in unsafe)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in {"eval", "exec", "os.system", "os.popen", "yaml.load"}:
                yield f"calls {called}"
            if called == "torch.load" and given.get("weights_only") != "True":
                yield "torch.load without weights_only"
            if given.get("shell") == "True" or given.get("allow_pickle") == "True":
                yield f"{called} with a shell or a pickle"
            if given.get("trust_remote_code", "False") != "False":
                yield f"{called} trusts remote code"


@pytest.mark.parametrize("code", (
    "import pickle", "from dill import loads", "eval('1')", "torch.load('x')", "subprocess.run('x', shell=True)",
    "AutoModel.from_pretrained('x', trust_remote_code=True)", "numpy.load('x', allow_pickle=True)",
))
def test_the_search_for_dangers_finds_them(code):
    assert list(dangers(ast.parse(code)))
