"""The benchmark of storage compares like with like: at a small size, what it times gives the same, ours and bare."""

import json

from benchmarks import storage


def test_every_target_has_its_figure_its_reference_and_their_multiple(capsys):
    small = ["--steps", "40000", "--metrics", "3", "--runs", "8", "--completions", "500", "--repeat", "3", "--json"]
    storage.main(small)  # which ends with a sentence when the two differ
    report = json.loads(capsys.readouterr().out)
    assert (report["steps"], report["runs"], report["completions"], report["metrics"]) == (40_000, 8, 500, 3)
    assert [target["name"] for target in report["targets"]] == list(storage.LIMITS_MS)
    for target in report["targets"]:
        assert target["ms"] > 0 and target["reference_ms"] > 0
        assert abs(target["multiple"] - target["ms"] / target["reference_ms"]) < 0.1 * target["multiple"]
