"""Buckets of many points, and the extremes of each metric of a run."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

WIDTHS = (32, 512, 8192)

# Both databases divide whole numbers into whole numbers.
FIRST_LEVEL = """
INSERT INTO rollup (run_id, metric_id, level, bucket, step, seconds, minimum, maximum, last, count)
SELECT p.run_id, p.metric_id, 0, g.bucket, p.step, p.seconds, g.minimum, g.maximum, p.value, g.count
FROM (
    SELECT q.run_id AS run_id, q.metric_id AS metric_id, q.step / {width} AS bucket,
           COALESCE(MAX(CASE WHEN q.value IS NOT NULL THEN q.step END), MAX(q.step)) AS step,
           MIN(q.value) AS minimum, MAX(q.value) AS maximum, COUNT(q.value) AS count
    FROM point q JOIN latest l ON l.run_id = q.run_id AND l.metric_id = q.metric_id
    WHERE q.step / {width} < l.step / {width}
    GROUP BY q.run_id, q.metric_id, q.step / {width}
) g JOIN point p ON p.run_id = g.run_id AND p.metric_id = g.metric_id AND p.step = g.step
"""
NEXT_LEVEL = """
INSERT INTO rollup (run_id, metric_id, level, bucket, step, seconds, minimum, maximum, last, count)
SELECT r.run_id, r.metric_id, {level}, g.bucket, r.step, r.seconds, g.minimum, g.maximum, r.last, g.count
FROM (
    SELECT q.run_id AS run_id, q.metric_id AS metric_id, q.bucket / {ratio} AS bucket,
           COALESCE(MAX(CASE WHEN q.count > 0 THEN q.step END), MAX(q.step)) AS step,
           MIN(q.minimum) AS minimum, MAX(q.maximum) AS maximum, SUM(q.count) AS count
    FROM rollup q JOIN latest l ON l.run_id = q.run_id AND l.metric_id = q.metric_id
    WHERE q.level = {level} - 1 AND q.step / {width} < l.step / {width}
    GROUP BY q.run_id, q.metric_id, q.bucket / {ratio}
) g JOIN rollup r ON r.run_id = g.run_id AND r.metric_id = g.metric_id AND r.level = {level} - 1
    AND r.bucket = g.step / {below}
"""
EXTREMES = """
UPDATE latest SET {name} = (
    SELECT {function}(p.value) FROM point p WHERE p.run_id = latest.run_id AND p.metric_id = latest.metric_id
)
"""


def upgrade() -> None:
    op.create_table(
        "rollup",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("metric_id", sa.Integer(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("minimum", sa.Double()),
        sa.Column("maximum", sa.Double()),
        sa.Column("last", sa.Double()),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["metric_id"], ["metric.id"], name="fk_rollup_metric_id_metric"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_rollup_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "metric_id", "level", "bucket", name="pk_rollup"),
        sqlite_with_rowid=False,
    )
    for name, function in (("minimum", "MIN"), ("maximum", "MAX")):
        op.add_column("latest", sa.Column(name, sa.Double()))
        op.execute(EXTREMES.format(name=name, function=function))
    op.execute(FIRST_LEVEL.format(width=WIDTHS[0]))
    for level in (1, 2):
        width, below = WIDTHS[level], WIDTHS[level - 1]
        op.execute(NEXT_LEVEL.format(level=level, width=width, below=below, ratio=width // below))
