"""The routes that pages poll and post to, over a real database."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import app as studio
from bgpo.training.metrics import METRICS, explained
from storage.alerts import Alert, add_alerts
from storage.checkpoints import add_checkpoint
from storage.completions import Completion
from storage.labels import set_tags
from storage.metrics import Point, Progress, flush
from storage.runs import get_run, list_runs, transition
from storage.settings import pause_queue
from tests.waiting import PATIENCE
from ui import assets, run_summaries
from ui.access import LOOPBACK, Access
from ui.answers import EventStream
from ui.components.chart_board import CHARTS, SECTIONS, chart_of_its_own, charted, described
from ui.compression import chosen
from ui.live_routes import OVERVIEW_BUCKETS, Seen, selection
from ui.run_routes import LOG_TAIL, tail

HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{constructor}}"


def points(first: int, last: int, metric: str = "reward/mean") -> list[Point]:
    return [Point(metric, step, step * 1.5, step / 100) for step in range(first, last + 1)]


def test_a_poll_brings_only_what_is_new(client, services, new_run):
    run = new_run()
    flush(services.db, run.id, points(0, 9))
    first = client.get(f"/api/live?runs={run.id}:0").json()
    assert first["all"] and [item["id"] for item in first["runs"]] == [run.id]
    assert first["points"][str(run.id)]["metrics"]["reward/mean"][0] == list(range(10))

    cursor = first["points"][str(run.id)]["cursor"]
    flush(services.db, run.id, points(10, 11), progress=Progress("training", 11, 60, 0.5, 11, 20))
    second = client.get(f"/api/live?runs={run.id}:{cursor}&seen={first['seen']}").json()
    assert second["points"][str(run.id)]["metrics"] == {"reward/mean": [[10, 11], [15.0, 16.5], [0.1, 0.11]]}
    assert second["runs"][0]["eta"] == pytest.approx(98)


def test_older_runs_are_kept_up_to_date_only_for_as_long_as_a_page_shows_them(services, new_run, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(run_summaries.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(run_summaries, "FIRST", 2)
    ids, summaries = [new_run().id for _ in range(6)], run_summaries.RunSummaries(services)
    for id in ids:
        transition(services.db, id, (get_run(services.db, id).status,), "finished")
    *_, few, _ = summaries.since("0", "", 2)
    *_, more, _ = summaries.since("1", few.token, 10**9)
    *_, every, _ = summaries.since("2", more.token, 10**9)
    assert list(every.prints) == ids[::-1]
    clock[0] += 100
    summaries.still_looked_at()
    clock[0] += 100
    summaries.since("3", few.token, 2)
    assert len(summaries.alert_totals(ids)) == 6
    clock[0] += 100
    summaries.since("4", few.token, 2)
    assert len(summaries.alert_totals(ids)) == 2
    *_, every, _ = summaries.since("5", every.token, 10**9)  # the page was only asleep
    assert list(every.prints) == ids[::-1]


def test_an_idle_poll_is_small(client, services, new_run):
    run = new_run()
    flush(services.db, run.id, points(0, 50))
    transition(services.db, run.id, ("running",), "finished")
    first = client.get(f"/api/live?runs={run.id}:0").json()
    idle = client.get(f"/api/live?runs={run.id}:{first['points'][str(run.id)]['cursor']}&seen={first['seen']}")
    assert idle.json()["runs"] == [] and idle.json()["points"] == {}
    assert len(idle.content) <= 200


def test_a_poll_that_brought_nothing_is_not_read_again_until_something_is_written(client, services, new_run):
    run, other = new_run("watched"), new_run("another")
    flush(services.db, run.id, points(0, 5))
    first = client.get(f"/api/live?runs={run.id}:0").json()
    address = f"/api/live?runs={run.id}:{first['points'][str(run.id)]['cursor']}&seen={first['seen']}"
    assert client.get(address).json()["runs"] == []
    assert client.get(address).json().keys() == {"now", "same"}
    for write in (
        lambda: flush(services.db, run.id, points(6, 6)),
        lambda: set_tags(services.db, other.id, ["seen"]),
        lambda: add_alerts(services.db, other.id, [Alert(1, "collapse", "serious", "It fell.", 1.0)]),
        lambda: pause_queue(services.db, True),
    ):
        before = client.get(address).json()
        write()
        after = client.get(address).json()
        assert "same" not in after and after != before
    assert after["queue"]["paused"] and [item["id"] for item in after["runs"]] == [other.id, run.id]
    assert after["points"][str(run.id)]["metrics"]["reward/mean"][0] == [6]


def test_every_page_that_opens_before_the_first_run_is_told_that_there_is_none(client):
    for _ in range(3):
        told = client.get("/api/live?runs=&seen=").json()
        assert told["all"] and told["runs"] == [] and told["seen"]
    assert client.get(f"/api/live?runs=&seen={told['seen']}").json()["all"] is False
    assert client.get(f"/api/live?runs=&seen={told['seen']}").json()["same"]


def test_a_sparkline_follows_its_metric_and_a_run_that_was_written_anew(client, services, new_run):
    run = new_run()
    shown = lambda: client.get("/api/live").json()["runs"][0]["spark"]  # noqa: E731
    flush(services.db, run.id, [Point("reward/heldout_greedy", step, step, 0.25) for step in (0, 5)])
    assert shown() == [0.25, 0.25]
    flush(services.db, run.id, points(6, 7), progress=Progress("training", 7, 60, 1.0, 7, 7.0))
    assert shown() == [0.25, 0.25]
    flush(services.db, run.id, [Point("reward/heldout_greedy", 10, 10, 0.5)])
    assert shown() == [0.25, 0.25, 0.5]
    flush(services.db, run.id, [Point("reward/heldout_greedy", 5, 5, 0.75)])
    assert shown() == [0.25, 0.75, 0.5]


def test_a_tick_of_twenty_metrics_and_five_steps_is_below_two_kilobytes(client, services, new_run):
    run = new_run()
    names = list(METRICS)[:20]
    flush(services.db, run.id, [Point(name, 0, 0, 0.5) for name in names])
    first = client.get(f"/api/live?runs={run.id}:0").json()
    more = [Point(name, step, step * 1.1, 0.1234567 * step) for name in names for step in range(1, 6)]
    flush(services.db, run.id, more, progress=Progress("training", 5, 60, 0.5, 5, 5.5))
    tick = client.get(f"/api/live?runs={run.id}:{first['points'][str(run.id)]['cursor']}&seen={first['seen']}")
    assert len(tick.json()["points"][str(run.id)]["metrics"]) == 20
    assert int(tick.headers["content-length"]) <= 2048


def test_a_deleted_run_is_reported_gone(client, services, new_run):
    kept, gone = new_run("kept"), new_run("gone")
    seen = client.get("/api/live").json()["seen"]
    transition(services.db, gone.id, ("running",), "stopped")
    seen = client.get(f"/api/live?seen={seen}").json()["seen"]
    assert client.post(f"/api/runs/{gone.id}/delete", json={}).status_code == 200
    answer = client.get(f"/api/live?seen={seen}").json()
    assert answer["gone"] == [gone.id] and answer["runs"] == []
    assert [run.id for run in list_runs(services.db)] == [kept.id]
    assert not Path(gone.folder).exists()


def test_nan_is_a_gap(client, services, new_run):
    run = new_run()
    flush(services.db, run.id, [Point("reward/mean", 1, 1, float("nan")), Point("reward/mean", 2, 2, 0.5)])
    metrics = client.get(f"/api/live?runs={run.id}:0").json()["points"][str(run.id)]["metrics"]
    assert metrics["reward/mean"][2] == [None, 0.5]


def test_a_long_run_opens_as_buckets_that_keep_a_spike(client, services, new_run):
    run = new_run(train_steps=10_000)
    curve = [Point("reward/mean", step, step, 9.0 if step == 4321 else 0.5) for step in range(5000)]
    flush(services.db, run.id, curve)
    part = client.get(f"/api/live?runs={run.id}:0").json()["points"][str(run.id)]
    steps, _, _, low, high = part["metrics"]["reward/mean"]
    assert len(steps) <= OVERVIEW_BUCKETS and max(high) == 9.0 and min(low) == 0.5
    assert part["cursor"] == 5000

    flush(services.db, run.id, points(5000, 5001))
    tail = client.get(f"/api/live?runs={run.id}:{part['cursor']}").json()["points"][str(run.id)]
    assert tail["metrics"]["reward/mean"][0] == [5000, 5001]

    finer = client.get(f"/api/range?run={run.id}&metric=reward/mean&low=4300&high=4340&buckets=100").json()
    assert finer[0] == list(range(4300, 4341)) and finer[2][21] == 9.0


def test_the_list_says_what_changed_and_how_it_goes(client, services, new_run):
    new_run("first")
    second = new_run("second", mc_samples=16)
    curve = [Point("reward/heldout_greedy", step, step, value) for step, value in ((0, 0.3), (5, 0.9), (10, 0.8))]
    flush(services.db, second.id, curve)
    shown = {item["name"]: item for item in client.get("/api/live").json()["runs"]}
    assert shown["second"]["changed"] == ["mc_samples 4 → 16"] and shown["second"]["against"] == "run 1"
    assert (shown["second"]["reward"], shown["second"]["best"]) == (0.8, 0.9)
    assert shown["second"]["spark"] == [0.3, 0.9, 0.8]
    assert shown["first"]["changed"] == []


def test_compared_runs_differ_in_words(client, new_run):
    new_run("one")
    new_run("two", mc_samples=16, seed=3)
    found = client.get("/api/differences?runs=1,2").json()
    assert {item["name"]: item["values"] for item in found} == {
        "mc_samples": {"1": "4", "2": "16"}, "seed": {"1": "0", "2": "3"},
    }


def test_start_queues_a_preset_with_changed_knobs(client, services):
    answer = client.post("/api/runs", json={"preset": "adder", "values": {"train_steps": "3"}})
    run = get_run(services.db, answer.json()["id"])
    assert answer.status_code == 201 and run.status == "queued" and run.train_steps == 3


@pytest.mark.parametrize(("body", "words"), [
    ({"preset": "nothing"}, "adder, stack_programs, countdown"),
    ({"preset": "adder", "values": {"mc_samples": 0}}, "mc_samples = 0"),
    ({"preset": "adder", "values": {"block_length": 3}}, "completion_length"),
    ({"preset": "adder", "values": [1]}, "JSON object"),
])
def test_a_bad_start_gets_a_sentence_and_starts_nothing(client, services, body, words):
    answer = client.post("/api/runs", json=body)
    assert answer.status_code == 422 and words in answer.json()["error"]
    assert list_runs(services.db) == []


def test_the_first_screen_offers_what_starts_on_any_machine(client):
    names = [card["name"] for card in client.get("/api/presets").json()]
    assert names[0] == "adder" and "llada_gsm8k" not in names
    chosen = client.get("/api/presets?preset=llada_gsm8k").json()
    assert "llada_gsm8k" in [card["name"] for card in chosen]


def test_preset_cards_take_knobs_from_the_address(client):
    plain = client.get("/api/presets").json()[0]
    changed = client.get("/api/presets?preset=adder&train_steps=3&junk=1").json()[0]
    assert plain["values"] == {} and changed["values"] == {"train_steps": "3"}
    assert changed["changed"] == ["train_steps 60 → 3"]
    wrong = client.get("/api/presets?train_steps=0").json()[0]
    assert len(wrong["problems"]) == 1 and wrong["problems"][0].startswith("train_steps = 0 is not allowed; give")
    assert wrong.get("careless")


def test_actions_that_cannot_be_are_refused_in_words(client, new_run):
    run = new_run()
    assert client.post(f"/api/runs/{run.id}/explode", json={}).status_code == 404
    assert client.post("/api/runs/99/stop", json={}).json()["error"].startswith("Run 99 does not exist")
    refused = client.post(f"/api/runs/{run.id}/delete", json={})
    assert refused.status_code == 409 and refused.json()["error"].endswith(".")
    plain = client.post(f"/api/runs/{run.id}/stop", content="x", headers={"content-type": "text/plain"})
    assert plain.status_code == 415


def test_details_hold_the_command_and_the_changed_knobs(client, services, new_run):
    new_run(mc_samples=16)
    facts = client.get("/api/runs/1").json()
    assert "--mc-samples 16" in facts["command"] and facts["command"].startswith("python -m bgpo.jobs.worker")
    assert [knob["name"] for knob in facts["knobs"] if knob["differs"]] == ["mc_samples"]
    assert [event["to"] for event in facts["events"]][-1] == "running"


def test_hostile_text_travels_as_data(client, services, new_run):
    run = new_run(HOSTILE)
    row = Completion(0, "held_out", 0, HOSTILE, HOSTILE, "085", 0.0, HOSTILE, json.dumps([[1, 0, HOSTILE, 0.5]]))
    flush(services.db, run.id, points(0, 0), [row])
    (Path(run.folder) / "log.txt").write_text(HOSTILE)
    for path in ("/api/live", f"/api/runs/{run.id}/completions", f"/api/runs/{run.id}/log"):
        answer = client.get(path)
        assert answer.headers["content-type"] == "application/json" and "onerror" in answer.text


def test_the_log_is_read_on_from_where_it_was(tmp_path):
    log = tmp_path / "log.txt"
    assert tail(log, -1)["text"] == ""
    log.write_bytes("first\nhalf a \u00e9".encode()[:-1])
    start = tail(log, -1)
    assert start["text"] == "first\nhalf a "
    with log.open("ab") as file:
        file.write("\u00e9".encode()[-1:] + b" more\xff\n")
    assert tail(log, start["offset"])["text"] == "\u00e9 more\ufffd\n"
    log.write_bytes(b"x" * 200_000)
    long = tail(log, -1)
    assert len(long["text"]) == LOG_TAIL and long["skipped"] == 200_000 - LOG_TAIL and long["offset"] == 200_000
    assert tail(log, 300_000)["offset"] == 200_000  # the log was begun anew


# charts wait for these: they appear once METRICS has them
def test_every_charted_metric_is_in_the_glossary():
    assert all(explained(name.replace("/*", "/256")) for name in charted())
    for name in CHARTS:
        chart = described(name)
        assert chart is None or all(series["label"] and series["help"] for series in chart["series"])


def test_every_chart_is_in_one_section_and_every_metric_in_one_place():
    placed = [name for section in SECTIONS.values() for name in section.charts]
    assert sorted(placed) == sorted(CHARTS)
    prefixes = [prefix for section in SECTIONS.values() for prefix in section.prefixes]
    assert len(set(prefixes)) == len(prefixes)
    assert {name.split("/")[0] for name in METRICS} <= set(prefixes)
    # the bound's own tab draws some of the curves again
    once = [CHARTS[name] for section, one in SECTIONS.items() if section != "monitor" for name in one.charts]
    drawn = [series.metric for chart in once for series in chart.series]
    assert len(set(drawn)) == len(drawn)


def test_a_metric_that_no_chart_names_gets_its_own_with_the_words_of_the_glossary():
    own = chart_of_its_own("lr")
    assert (own["id"], own["title"]) == ("lr", "Learning rate")
    assert own["series"][0]["help"] == METRICS["lr"].help


def test_alerts_come_with_the_poll_once_and_the_list_counts_them(client, services, new_run):
    run, well = new_run("sick"), new_run("well")
    first = client.get(f"/api/live?runs={run.id}:0:0").json()
    assert first["alerts"] == {}
    alerts = [Alert(3, "policy_drift", "warning", HOSTILE, 5.0), Alert(9, "collapse", "serious", "It fell.", 6.0)]
    flush(services.db, run.id, points(0, 9), alerts=alerts)
    second = client.get(f"/api/live?runs={run.id}:0:0,{well.id}:0:0&seen={first['seen']}").json()
    assert [alert["name"] for alert in second["alerts"][str(run.id)]] == ["policy_drift", "collapse"]
    assert second["alerts"][str(run.id)][0] == {
        "step": 3, "name": "policy_drift", "severity": "warning", "message": HOSTILE, "time": 5.0,
    }
    shown = {item["name"]: item for item in second["runs"]}
    assert (shown["sick"]["alerts"], shown["sick"]["serious"]) == (2, 1)
    third = client.get(f"/api/live?runs={run.id}:10:2&seen={second['seen']}").json()
    assert third["alerts"] == {} and third["runs"] == []
    add_alerts(services.db, run.id, [Alert(20, "collapse", "serious", "It fell again.", 7.0)])  # no other change
    fourth = client.get(f"/api/live?runs={run.id}:10:2&seen={third['seen']}").json()
    assert len(fourth["alerts"][str(run.id)]) == 3 and fourth["runs"][0]["alerts"] == 3


def test_a_selection_is_read_leniently():
    assert selection("3:120:2,4:7,5,junk,6:x:y,7:1:2:3") == {
        3: Seen(120, 2), 4: Seen(7, 0), 5: Seen(0, 0), 6: Seen(0, 0), 7: Seen(1, 2),
    }


def test_assets_are_ours_only(client):
    found = client.get("/assets/chart_board.js", headers={"accept-encoding": "gzip"})
    assert found.headers["content-type"].startswith("text/javascript") and found.headers["content-encoding"] == "gzip"
    again = client.get("/assets/chart_board.js", headers={"if-none-match": found.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert client.get(assets.address("plotly.min.js")).headers["content-encoding"] == "br"
    for name in ("chart_board.py", "..%2fapi.py", "../api.py", "nothing.js", "%2e%2e/theme.py"):
        assert client.get(f"/assets/{name}").status_code == 404
        assert client.get(assets.address(name)).status_code == 404


def test_an_asset_of_this_version_is_kept_by_a_browser_and_no_other_is(client, tmp_path, monkeypatch):
    def kept(address: str) -> bool:
        return "immutable" in client.get(address).headers["cache-control"]

    address = assets.address("dom.js")
    assert kept(address) and not kept("/assets/dom.js") and not kept("/assets/0123456789abcdef/dom.js")
    monkeypatch.setattr(assets, "COMPONENTS", tmp_path)  # another text under the same address, as after an update
    (tmp_path / "dom.js").write_text("export const changed = 1;")
    assert not kept(address) and client.get(address).text == "export const changed = 1;"


@pytest.mark.parametrize("accepted, way", [
    ("gzip, deflate, br, zstd", "br"), ("gzip", "gzip"), ("br;q=0, gzip;q=0.5", "gzip"), ("identity", ""), ("", ""),
    ("gzip;q=0.0, BR ; q=0.1", "br"), ("unbr, gzip0", ""),
])
def test_what_is_sent_is_packed_as_the_browser_can_read_it(client, accepted, way):
    assert chosen(accepted) == way
    for path in ("/api/knobs", assets.address("live.js")):
        answer = client.get(path, headers={"accept-encoding": accepted})
        assert answer.headers.get("content-encoding", "") == way
        assert answer.text == client.get(path, headers={"accept-encoding": "identity"}).text


def test_no_component_writes_markup():
    for module in Path(assets.__file__).parent.glob("components/*.js"):
        text = module.read_text()
        for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert danger not in text, f"{module.name} uses {danger}"


def test_other_hosts_and_other_sites_are_refused(client):
    assert client.get("/api/live", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/api/live", headers={"host": "[::1]:7860"}).status_code == 200
    crossed = client.post("/api/runs", json={"preset": "adder"}, headers={"origin": "http://evil.example"})
    assert crossed.status_code == 403
    assert client.post("/api/runs", json={"preset": "adder"}, headers={"origin": "http://localhost"}).status_code == 201


def test_one_password_covers_pages_and_routes(routes):
    client = TestClient(Access(routes, None, "a secret"), base_url="http://box.example", follow_redirects=False)
    assert client.get("/api/live").status_code == 401
    page = client.get("/", headers={"accept": "text/html"})
    assert page.status_code == 401 and "Password" in page.text
    assert client.post("/login", data={"password": "wrong"}).status_code == 401
    assert client.get("/api/live", auth=("anyone", "a secret")).status_code == 200
    assert client.get("/api/live", auth=("anyone", "a secre")).status_code == 401
    assert client.post("/login", data={"password": "a secret"}).status_code == 303
    assert client.get("/api/live").status_code == 200
    forged = TestClient(Access(routes, None, "a secret"), base_url="http://box.example", cookies=dict(client.cookies))
    assert forged.get("/api/live").status_code == 401  # another start, another ticket


def one_sentence(capsys, arguments: list[str]) -> str:
    assert studio.main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err


def test_a_port_in_use_is_a_sentence(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Port {port}" in one_sentence(capsys, ["--data-dir", str(tmp_path), "--port", str(port)])


def test_an_answer_is_sent_at_once():
    """Nothing is held back until what was sent before is acknowledged, which takes 40 ms."""
    async def sent_at_once() -> int:
        writers: list[asyncio.StreamWriter] = []
        with studio.listen("127.0.0.1", 0) as bound:
            server = await asyncio.start_server(lambda reader, writer: writers.append(writer), sock=bound)
            with socket.create_connection(bound.getsockname()):
                while not writers:
                    await asyncio.sleep(0.01)
            set_to = writers[0].get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            server.close()
        return set_to

    assert asyncio.run(sent_at_once())


def test_an_open_door_needs_a_password(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("BGPO_PASSWORD", raising=False)
    assert "BGPO_PASSWORD" in one_sentence(capsys, ["--data-dir", str(tmp_path), "--host", "0.0.0.0", "--port", "0"])


def test_a_data_folder_that_cannot_be_written_is_a_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "--data-dir" in one_sentence(capsys, ["--data-dir", str(tmp_path / "file"), "--port", "0"])


def test_a_database_of_a_newer_version_is_a_sentence(tmp_path, capsys, services):
    from sqlalchemy import text

    with services.db.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    assert "newer" in one_sentence(capsys, ["--data-dir", str(tmp_path), "--port", "0"])


@pytest.mark.parametrize("reading", [True, False])
def test_a_stream_of_events_ends_with_its_reader_and_not_when_the_garbage_collector_comes(reading):
    """Whether the browser goes away while an event is made, or while one is sent."""
    ended = []

    def events():
        try:
            while True:
                yield {"kind": "waiting"}
        finally:
            ended.append(True)

    async def watched() -> None:
        gone = asyncio.Event()

        async def receive() -> dict:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            if message.get("body"):
                gone.set()
                if not reading:
                    await asyncio.sleep(PATIENCE)

        await EventStream(events())({"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, send)

    gc.disable()
    try:
        asyncio.run(watched())
        assert ended == [True]
    finally:
        gc.enable()


def test_loopback_names():
    assert {"localhost", "127.0.0.1", "::1"} == LOOPBACK
    assert [studio.is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True, True, True, False, False,
    ]


def test_labels_are_written_and_come_with_the_list(client, services, new_run):
    run = new_run(mc_samples=16)
    seen = client.get("/api/live").json()["seen"]
    assert client.post(f"/api/runs/{run.id}/tags", json={"tags": ["#Good", HOSTILE[:20]]}).status_code == 200
    assert client.post(f"/api/runs/{run.id}/notes", json={"notes": HOSTILE}).status_code == 200
    assert client.post("/api/archive", json={"runs": [run.id], "archived": True}).status_code == 200
    (item,) = client.get(f"/api/live?seen={seen}").json()["runs"]
    assert item["tags"] == [HOSTILE[:20].replace(" ", "-"), "good"] and item["notes"] and item["archived"]
    assert item["knobs"]["mc_samples"] == 16 and client.get("/api/knobs").json()["mc_samples"] == 4
    assert client.get(f"/api/runs/{run.id}/notes").json() == {"notes": HOSTILE}


def test_labels_that_cannot_be_kept_get_a_sentence(client, new_run):
    run = new_run()
    assert "list of texts" in client.post(f"/api/runs/{run.id}/tags", json={"tags": "x"}).json()["error"]
    answer = client.post(f"/api/runs/{run.id}/tags", json={"tags": ["x" * 99]})
    assert answer.status_code == 422 and "at most 40" in answer.json()["error"]
    assert client.post("/api/runs/99/tags", json={"tags": ["x"]}).status_code == 404
    assert client.post("/api/archive", json={"runs": ["1"]}).status_code == 422


def test_views_are_kept_by_name(client):
    assert client.post("/api/views", json={"name": "mine", "query": "run=1"}).status_code == 201
    kept = client.post("/api/views", json={"name": "mine", "query": "run=1,2"}).json()
    assert [view["query"] for view in client.get("/api/views").json()] == ["run=1,2"]
    assert client.post(f"/api/views/{kept['id']}/delete", json={}).status_code == 200
    assert client.get("/api/views").json() == []


def test_marks_say_what_happened_at_which_step(client, services, new_run):
    run = new_run()
    add_checkpoint(services.db, run.id, 5, "evaluation", str(Path(run.folder) / "step-000005"), 0.5)
    flush(services.db, run.id, [], progress=Progress("training", 7, 60, 0.5, 7, 20))
    transition(services.db, run.id, ("running",), "failed", reason="Killed.", who="scheduler")
    marks = client.get(f"/api/marks?runs={run.id},99").json()
    assert marks["99"] == []
    assert [(m["step"], m["kind"], m["what"]) for m in marks[str(run.id)][-2:]] == [
        (5, "checkpoint", "evaluation"), (7, "status", "failed"),
    ]
    assert marks[str(run.id)][-1]["who"] == "scheduler"
