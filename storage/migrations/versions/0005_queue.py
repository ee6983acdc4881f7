"""The queue, leases of devices, sweeps, lineage, and what became of a run."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = (
    sa.Column("parent_step", sa.Integer()),
    sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("position", sa.Double(), nullable=False, server_default="0"),
    sa.Column("start_at", sa.Double()),
    sa.Column("device_kind", sa.Text(), nullable=False, server_default="auto"),
    sa.Column("devices", sa.Integer(), nullable=False, server_default="1"),
    sa.Column("epoch", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("retries", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("retry_step", sa.Integer()),
    sa.Column("failure_kind", sa.Text(), nullable=False, server_default=""),
    sa.Column("progress_at", sa.Double()),
    sa.Column("stall_after", sa.Double()),
    sa.Column("stalled_at", sa.Double()),
)


def upgrade() -> None:
    op.create_table(
        "setting",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_setting"),
    )
    op.create_table(
        "sweep",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("plan_json", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweep"),
        sqlite_autoincrement=True,
    )
    last = _last_id()
    # the sequence keeps the ids of deleted runs from being given out again; a rebuilt table starts it anew
    with op.batch_alter_table("run", table_kwargs={"sqlite_autoincrement": True}) as batch:
        for column in COLUMNS:
            batch.add_column(column)
        for name, table in (("sweep_id", "sweep"), ("after_id", "run")):
            batch.add_column(sa.Column(name, sa.Integer()))
            batch.create_foreign_key(f"fk_run_{name}_{table}", table, [name], ["id"], ondelete="SET NULL")
    if last is not None:
        op.execute("DELETE FROM sqlite_sequence WHERE name = 'run'")
        op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('run', {last})")
    op.execute("UPDATE run SET position = id WHERE status = 'queued'")
    op.create_table(
        "lease",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("taken_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_lease_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device", name="pk_lease"),
    )
    op.create_index("ix_lease_run_id", "lease", ["run_id"])


def _last_id() -> int | None:
    """The highest id that SQLite has given to a run so far."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return None
    return connection.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'run'")).scalar()
