"""The first tables: runs, their events, points, completions and checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "metric",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_metric"),
        sa.UniqueConstraint("name", name="uq_metric_name"),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("config_json", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("queued_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.Column("heartbeat_at", sa.Double()),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("train_steps", sa.Integer(), nullable=False),
        sa.Column("phase_done", sa.Integer(), nullable=False),
        sa.Column("phase_total", sa.Integer(), nullable=False),
        sa.Column("phase_rate", sa.Double()),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("requested", sa.Text()),
        sa.Column("pid", sa.Integer()),
        sa.Column("process_started", sa.BigInteger()),
        sa.Column("boot_id", sa.Text()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Integer()),
        sa.Column("point_sequence", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["run.id"], name="fk_run_parent_id_run", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_run_status_queued_at", "run", ["status", "queued_at"])
    op.create_table(
        "checkpoint",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("reward", sa.Double()),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_checkpoint_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoint"),
        sa.UniqueConstraint("run_id", "step", name="uq_checkpoint_run_id_step"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "completion",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("problem_index", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("reward", sa.Double()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("trace", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_completion_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "kind", "step", "problem_index", name="pk_completion"),
    )
    op.create_table(
        "latest",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("metric_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.ForeignKeyConstraint(["metric_id"], ["metric.id"], name="fk_latest_metric_id_metric"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_latest_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "metric_id", name="pk_latest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "point",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("metric_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["metric_id"], ["metric.id"], name="fk_point_metric_id_metric"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_point_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "metric_id", "step", name="pk_point"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_point_run_id_sequence", "point", ["run_id", "sequence"])
    op.create_table(
        "run_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=False),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_run_event_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_run_event"),
    )
    op.create_index("ix_run_event_run_id", "run_event", ["run_id"])
