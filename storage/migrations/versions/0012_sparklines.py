"""The small curve of each metric of a run, which a list of runs shows."""

import struct
from itertools import groupby

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

POINTS = 40

# Of each bucket before the newest one the last point with a value, found from its end. The outer join keeps SQLite from
# beginning with all points there are: seconds instead of minutes for a run of a million steps.
ENDS = """
WITH RECURSIVE bucket (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM bucket WHERE number < {points} - 1),
curve AS (SELECT run_id, metric_id, step, {width} AS width FROM latest)
SELECT p.run_id, p.metric_id, p.step, p.value FROM (
    SELECT c.run_id AS run_id, c.metric_id AS metric_id, (
        SELECT q.step FROM point q WHERE q.run_id = c.run_id AND q.metric_id = c.metric_id AND q.value IS NOT NULL
        AND q.step >= b.number * c.width AND q.step < (b.number + 1) * c.width ORDER BY q.step DESC LIMIT 1
    ) AS step
    FROM curve c JOIN bucket b ON (b.number + 1) * c.width <= c.step
) e LEFT JOIN point p ON p.run_id = e.run_id AND p.metric_id = e.metric_id AND p.step = e.step
WHERE e.step IS NOT NULL ORDER BY p.run_id, p.metric_id, p.step
"""


def upgrade() -> None:
    table = op.create_table(
        "sparkline",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("metric_id", sa.Integer(), nullable=False),
        sa.Column("pairs", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["metric_id"], ["metric.id"], name="fk_sparkline_metric_id_metric"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_sparkline_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "metric_id", name="pk_sparkline"),
        sqlite_with_rowid=False,
    )
    # the least power of two with which the newest step is in one of the first buckets
    widths = " ".join(f"WHEN step < {POINTS << n} THEN {1 << n}" for n in range(26))
    ends = ENDS.format(points=POINTS, width=f"CASE {widths} ELSE {1 << 26} END")
    rows = op.get_bind().execute(sa.text(ends)).yield_per(10_000)
    found = [
        {"run_id": run_id, "metric_id": metric_id, "pairs": b"".join(struct.pack("<id", *end[2:]) for end in curve)}
        for (run_id, metric_id), curve in groupby(rows, lambda row: (row[0], row[1]))
    ]
    if found:
        op.bulk_insert(table, found)
