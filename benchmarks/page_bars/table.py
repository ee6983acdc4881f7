"""The 25 bars: target, what peers or the prototype do today, and how each is measured."""

from __future__ import annotations

from benchmarks.page_bars import curves, loading, looking, polling, running
from benchmarks.page_bars.bench import Bar, Found

BARS: dict[int, Bar] = {
    1: Bar("process start to HTTP 200: 8 s, 200 MB, no torch", "prototype 6.4 to 6.9 s, 155 MB",
           loading.start_of_the_process),
    2: Bar("first paint 1.0 s, run list 2.0 s", "prototype 0.3 to 0.9 s, 1.6 to 2.2 s", loading.first_paint),
    3: Bar("six charts of 100k steps 3.0 s, of 1M 3.5 s", "prototype 2.7 s; six gr.Plot about 6 s", loading.six_charts,
           "curves"),
    4: Bar("first load 2.5 MB, reload 150 KB", "prototype 2.0 to 2.1 MB, 60 to 150 KB", loading.bytes_to_load),
    5: Bar("tick of 20 metrics, 5 steps: 2 KB; idle 200 B", "trackio 0.9 to 1.4 MB; gr.Plot 100 to 150 KB",
           polling.bytes_per_tick),
    6: Bar("server time per tick at 1M steps: p95 10 ms", "trackio 7,000 ms", polling.server_time, "curves"),
    7: Bar("commit to pixel: p95 1.5 s at a 1 s poll", "LLaMA Board over 2 s, TensorBoard 30 s",
           polling.commit_to_pixel),
    8: Bar("zoom, hidden curves, scroll after 1,000 ticks: all kept", "gr.Plot 0 %", curves.kept_through_ticks),
    9: Bar("an hour of six charts: heap 10 MB, nodes 5 %, main thread 30 %", "gr.Plot +1.3 MB a second", curves.soak),
    10: Bar("one step of 1M visible in the whole: 100 of 100", "strides: trackio 0.2 %, 800 of 1M 0.08 %",
            curves.outlier, "curves"),
    11: Bar("zoom to refined data: 300 ms, 20 KB", "prototype 10 to 13 KB", curves.zoom, "curves"),
    12: Bar("page to running job: 2 clicks or n, Ctrl+Enter; nothing typed", "LLaMA Board at least 4",
            loading.two_clicks),
    13: Bar("wrong field to its sentence: 300 ms, no process", "LLaMA Board: a toast", loading.wrong_field),
    14: Bar("launch to visible 1 s, to a live worker 8 s", "H2O up to 30 s between jobs", loading.launch),
    15: Bar("kill -9 of the app: no step lost, shown again 5 s after restart", "Unsloth marks the run failed",
            running.server_killed),
    16: Bar("kill -9 of the worker: failed with its cause 5 s, next run 10 s", "H2O up to 30 s", running.worker_killed),
    17: Bar("writing a step: 2 ms, never held up by a locked database", "H2O 35 to 154 ms per value", running.writing),
    18: Bar("20 runs of 1,000 steps: drawn in 2 s, hover 50 ms", "trackio: very slow at 50 of 2,000",
            curves.twenty_runs),
    19: Bar("search of 100k completions 50 ms, one step 20 ms", "prototype 1.3 ms, 0.14 ms", looking.rollouts,
            "completions"),
    20: Bar("replay of 512 tokens, 128 frames: 15 KB, 8 ms a frame", "HighlightedText 73 ms; Chatbot 139 ms, 2.9 MB",
            looking.replay, "completions"),
    21: Bar("token fixed to screen: 250 ms at 20 frames a second", "LLaDA's demo: after generation",
            looking.live_denoising),
    22: Bar("hostile text in every view: 0 executions", "stock gr.HTML executes", looking.hostile_text, long=True),
    23: Bar("a link reproduces every field, after a restart too", "LLaMA Board, H2O none", looking.deep_link),
    24: Bar("five viewers: tick at most 1.5 times that of one", "Gradio's default 1.37 s for 0.3 s",
            polling.five_viewers),
    25: Bar("axe: nothing serious; 390 px wide; chart text 4.5", "", looking.accessibility),
}


def row(number: int, found: Found) -> str:
    bar = BARS[number]
    figures = ", ".join(f"{name} {value}" for name, value in found.value.items()) if found.value else "not measured"
    said = f"{figures} ({found.reason})" if found.reason else figures
    holds = {True: "yes", False: "NO", None: "–"}[found.holds]
    return f"| {number} | {bar.target} | {said} | {holds} | {bar.peer} |"


HEAD = "| # | target | figure | holds | peer or prototype |\n|--:|---|---|:-:|---|"
