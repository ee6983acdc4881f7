"""What the pages compute by themselves: pure functions of ui/components, run where they run, in a browser."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from statistics import mean, stdev
from typing import Any

import pytest
from playwright.sync_api import Route

from tests.ui.test_denoise_stage import events
from ui import assets

HOST = "http://studio.test"


@pytest.fixture(scope="module")
def call(browser) -> Iterator[Callable[..., Any]]:
    """`call("series_maths", "smoothed", x, y, 0.5)`: a function of a module, with arguments and answer as JSON."""
    context = browser.new_context()
    page = context.new_page()

    def serve(route: Route) -> None:
        found = assets.find(route.request.url.rsplit("/", 1)[-1])
        body, kind = (found.body, found.media_type) if found else (b"<html></html>", "text/html")
        route.fulfill(body=body, content_type=kind)

    page.route(f"{HOST}/**", serve)
    page.goto(HOST)
    # JSON has no infinity and no function: infinities come back as text, functions go in as source
    script = """async ([module, name, given]) => {
        const found = await import(`/assets/${module}.js`);
        const argument = (value) => typeof value === "string" && value.startsWith("=>") ? eval(value.slice(2)) : value;
        return JSON.stringify(found[name](...given.map(argument)), (_, v) => v === Infinity ? "Infinity" : v);
    }"""

    def run(module: str, name: str, *given: Any) -> Any:
        answer = page.evaluate(script, [module, name, list(given)])
        return None if answer is None else json.loads(answer)

    yield run
    context.close()


def test_smoothing_is_the_debiased_average_of_tensorboard(call):
    y = [1.0, 3.0, 2.0, 8.0, 5.0]
    got = call("series_maths", "smoothed", list(range(5)), y, 0.6)
    average = 0.0
    for i, value in enumerate(y):
        average = 0.6 * average + 0.4 * value
        assert got[i] == pytest.approx(average / (1 - 0.6 ** (i + 1)))
    assert call("series_maths", "smoothed", [0, 1], [1, 2], 0) == [1, 2]


def test_smoothing_keeps_gaps_and_forgets_by_distance(call):
    with_gap = call("series_maths", "smoothed", [0, 1, 2, 3], [1, None, 3, 3], 0.5)
    assert with_gap[1] is None and 2 < with_gap[2] < 3
    near, far = (call("series_maths", "smoothed", x, [0, 0, 9], 0.9)[2] for x in ([0, 9, 10], [0, 1, 10]))
    assert far > near


def test_a_mean_of_seeds_has_students_interval(call):
    values = [0.1, 0.5, 0.3]
    curves = [{"step": [0, 1], "seconds": [0, 1], "value": [value, value + 1]} for value in values]
    curves[0] = {"step": [0], "seconds": [0], "value": [0.1]}
    band = call("series_maths", "meanBand", curves, [[0], [0, 1], [0, 1]])
    half = 4.303 * stdev(values) / math.sqrt(3)
    assert band["value"][0] == pytest.approx(mean(values)) and band["count"] == [3, 2]
    assert band["high"][0] - band["value"][0] == pytest.approx(half)
    nothing = {"step": [0], "seconds": [0], "value": [None]}
    assert call("series_maths", "meanBand", [nothing, nothing], [[0], [0]])["value"] == [None]  # a gap stays one
    alone = call("series_maths", "meanBand", curves[:1], [[0]])
    assert alone["low"] == [None] and alone["value"] == [0.1]


def test_nearest_and_interpolated(call):
    assert [call("series_maths", "nearest", [0, 5, 10], x) for x in (-3, 2, 3, 99)] == [0, 0, 1, 2]
    assert call("series_maths", "nearest", [], 3) == -1
    assert call("series_maths", "interpolated", [0, 10, 20], [0, None, 40], [5, 15, 99]) == [10, 30, 40]


def test_csv_quotes_and_disarms_formulas(call):
    text = call("series_maths", "csv", ["name", "value"], [['=SUM("x")', 0.5], ["a,b", None], ["-1+1", -1]])
    assert text == 'name,value\r\n"\'=SUM(""x"")",0.5\r\n"a,b",\r\n\'-1+1,-1\r\n'


def test_following_shows_the_newest_part_and_never_before_the_first(call):
    assert call("series_maths", "tailWindow", 0, 400, 0) == [300, 400]
    assert call("series_maths", "tailWindow", 0, 400, 20) == [380, 400]
    assert call("series_maths", "tailWindow", 1, 5, 20) == [1, 5]
    assert call("series_maths", "tailWindow", 3, 3, 0) == [2.5, 3.5]


RUN = {
    "id": 1, "name": "Adder, long", "task": "adder", "tags": ["paper"], "changed": ["mc_samples 4 → 16"], "reason": "",
    "status": "failed", "word": "Failed", "reward": 0.9, "best": None, "knobs": {}, "readable": True,
}
KNOBS = {"mc_samples": 16, "learning_rate": 1e-4, "warmup_learning_rate": 1e-3, "share_masks": False}
KNOB = "=>((run, name) => (" + str(KNOBS).replace("False", "false") + ")[name])"


@pytest.mark.parametrize(("text", "found"), [
    ("", True), ("adder LONG", True), ("adder short", False), ("-short", True), ("-long", False), ("16", True),
    ("#paper", True), ("#pap", True), ("#other", False), ("-#paper", False), ("status:fail", True),
    ("mc_samples=16", True), ("mc_samples=4", False), ("mc_samples!=4", True), ("k>=16", True), ("lr<2e-4", True),
    ("mc_s=16", True), ("share_masks=no", True), ("share=yes", False), ("reward>0.8", True), ("best>0", False),
    ("no_such_knob=1", False), ("<script>", False),
])
def test_a_filter_finds_by_words_tags_status_and_knobs(call, text, found):
    assert call("run_filter", "matches", RUN, call("run_filter", "terms", text), KNOB, list(KNOBS)) is found


def test_groups_come_in_the_order_of_their_numbers(call):
    runs = [RUN | {"id": i, "knobs": {"k": k}} for i, k in enumerate((16, 4, 16, 1))]
    groups = call("run_filter", "grouped", runs, "k", "=>((run, name) => run.knobs[name])")
    assert [(group["title"], len(group["runs"])) for group in groups] == [("1", 1), ("4", 1), ("16", 2)]
    assert [run["id"] for run in call("run_filter", "sorted", runs, "newest")] == [3, 2, 1, 0]


def curves(**values: list) -> str:
    """A function that reads curves, as source."""
    names = {"gap": "bound/gap", "objective": "bound/elbo_objective", "error": "bound/gap_se",
             "negative": "bound/gap_negative"}
    store = {names[name]: {"step": list(range(1, len(v) + 1)), "value": v} for name, v in values.items()}
    return f"=>((metric) => ({store})[metric] || null)".replace("None", "null").replace("nan", "null")


@pytest.mark.parametrize(("store", "updates", "tone", "words"), [
    (curves(gap=[0, 0, 0]), 1, "good", "zero at every update: the trainer is right"),
    (curves(gap=[0, 0.02, 0]), 1, "bad", "it must be"),
    (curves(gap=[0, None]), 1, "bad", "it must be"),
    (curves(gap=[0.01] * 5, objective=[0.1] * 5, error=[0.002] * 5, negative=[0.009] * 5), 4, "good", "10 %"),
    (curves(gap=[0.08] * 5, objective=[0.1] * 5), 4, "bad", "stale: the bound gives away 80 %"),
    (curves(gap=[-0.01], objective=[0.1]), 4, "bad", "above its objective"),
    (curves(), 1, "", "Nothing measured yet"),
])
def test_the_bound_is_judged_in_words(call, store, updates, tone, words):
    verdict = call("bound_words", "verdict", store, updates)
    assert verdict["tone"] == tone and words in verdict["title"] and all(s.endswith(".") for s in verdict["sentences"])


def test_a_run_that_has_ended_promises_no_bound(call):
    assert "first comes after" in call("bound_words", "verdict", curves(), 1, False)["sentences"][0]
    assert call("bound_words", "verdict", curves(), 1, True)["sentences"] == [
        "The run ended before its first training step.",
    ]


def test_memory_in_words(call):
    facts = {"base": 100, "shared": 2, "rest": 1000, "room": {"name": "GPU X", "kind": "cuda", "mb": 17000}}
    assert [call("memory_words", name, facts, 64) for name in ("bgpo", "plain")] == [200, 6400]
    assert call("memory_words", "mostPlain", facts) == 160
    assert "does not fit the 17 GB of GPU X; it would end at 160 draws" in call("memory_words", "sentence", facts, 256)
    assert "32 times as much as BGPO's 200 MB" in call("memory_words", "sentence", facts, 64)
    assert call("memory_words", "bgpo", facts | {"own": 80}, 64) == 160
    assert "Nothing is measured yet" in call("memory_words", "sentence", facts | {"base": 0}, 4)


def test_an_axis_of_a_knob_is_linear_logarithmic_or_words(call):
    knobs = ([1, 2, 4], [1e-4, 1e-2], ["a", "b"], [True, 1])
    kinds = [call("sweep_data", "axisOf", values)["kind"] for values in knobs]
    assert kinds == ["linear", "log", "words", "words"]
    rows = [{"values": [1, 5]}, {"values": [2, 6]}, {"values": [3, 7]}]
    assert call("sweep_data", "brushed", rows, [[1.5, 3], None]) == rows[1:]
    assert call("sweep_data", "brushed", rows, [[[0, 1], [3, 3]], None]) == [rows[0], rows[2]]


@pytest.mark.parametrize(("seconds", "words"), [
    (5, "a few seconds left"), (41, "about 50 s left"), (300, "4 to 6 min left"), (7200, "1.5 to 2.5 h left"),
])
def test_what_is_left_is_a_range(call, seconds, words):
    assert call("run_row", "left", seconds) == words


def test_points_go_on_and_are_put_in_place_when_a_resumed_run_writes_them_again(call):
    series = call("series_maths", "addPoints", {"step": [], "value": []}, {"step": [0, 2, 4], "value": [1, 2, 3]})
    assert series == {"step": [0, 2, 4], "value": [1, 2, 3]}
    series = call("series_maths", "addPoints", series, {"step": [5, 6], "value": [4, 5]})
    assert series == {"step": [0, 2, 4, 5, 6], "value": [1, 2, 3, 4, 5]}
    again = {"step": [4, 3, 7], "value": [30, 25, 6], "low": [0, 0, 0]}  # low: not one of its columns
    series = call("series_maths", "addPoints", series, again)
    assert series == {"step": [0, 2, 3, 4, 5, 6, 7], "value": [1, 2, 25, 30, 4, 5, 6]}


def test_a_file_is_a_trace_only_if_all_that_a_stage_reads_is_of_its_kind(call):
    made = events()
    made[1]["details"] = {"0": {"id": 3, "entropy": 0.5, "others": [["5", 0.1]]}}
    assert call("trace_check", "isTrace", made)
    assert call("trace_check", "isTrace", [*made[:-1], {"kind": "stopped"}])
    start, step, end = made[0], made[1], made[-1]
    wrong = [
        None, {}, [], [None], [step], [start | {"length": 10**9}], [start | {"length": "8"}],
        [start | {"prompt": {}}], [start | {"prompt_tokens": [1]}], [start | {"prompt_tokens": ["a"] * 30_000}],
        [start | {"steps": 10**9}], [start, step | {"step": 4096}], [start, step, step],
        [start, step | {"commits": [[99, "a", 0.5]]}], [start, step | {"commits": [[0, "a", "sure"]]}],
        [start, step | {"commits": [[0, "a", 0.5]] * 70_000}], [start, step | {"ghosts": "many"}],
        [start, step | {"seconds": "soon"}], [start, step | {"details": {"0": {"entropy": "x", "others": []}}}],
        [start, step | {"details": {"0": {"entropy": 1, "others": 5}}}], [start, end | {"verdict": {"reward": "1"}}],
        [start, end | {"verdict": {"reward": 1, "parts": [["a", None]]}}], [start, end | {"text": []}],
    ]  # fmt: skip
    assert [given for given in wrong if call("trace_check", "isTrace", given)] == []
