"""Kept rollouts of training steps, and the index that finds text in them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PACKED_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# An index of every three letters, so that any part of a word, a sum or a line of code is found. The text itself
# stays in `rollout`; triggers keep the index in step with it, whoever writes.
SQLITE_SEARCH = (
    "CREATE VIRTUAL TABLE rollout_text USING fts5(completion, content='rollout', content_rowid='id',"
    " tokenize='trigram')",
    "CREATE TRIGGER rollout_text_insert AFTER INSERT ON rollout BEGIN"
    " INSERT INTO rollout_text(rowid, completion) VALUES (new.id, new.completion); END",
    "CREATE TRIGGER rollout_text_delete AFTER DELETE ON rollout BEGIN"
    " INSERT INTO rollout_text(rollout_text, rowid, completion) VALUES ('delete', old.id, old.completion); END",
    "CREATE TRIGGER rollout_text_update AFTER UPDATE OF completion ON rollout"
    " WHEN old.completion IS NOT new.completion BEGIN"
    " INSERT INTO rollout_text(rollout_text, rowid, completion) VALUES ('delete', old.id, old.completion);"
    " INSERT INTO rollout_text(rowid, completion) VALUES (new.id, new.completion); END",
)
POSTGRES_SEARCH = (
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    "CREATE INDEX rollout_text ON rollout USING gin (completion gin_trgm_ops)",
)


def upgrade() -> None:
    op.create_table(
        "rollout_group",
        sa.Column("id", PACKED_ID, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("problem_index", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("prompt_key", sa.BigInteger(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("completions", sa.Integer(), nullable=False),
        sa.Column("worst", sa.Double()),
        sa.Column("mean", sa.Double()),
        sa.Column("best", sa.Double()),
        sa.Column("disagreeing", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_rollout_group_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_rollout_group"),
    )
    op.create_index("ix_rollout_group_run_id_prompt_key_step", "rollout_group", ["run_id", "prompt_key", "step"])
    op.create_table(
        "rollout",
        sa.Column("id", PACKED_ID, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("problem_index", sa.Integer(), nullable=False),
        sa.Column("completion_index", sa.Integer(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("reward", sa.Double()),
        sa.Column("advantage", sa.Double()),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("parts", sa.Text(), nullable=False),
        sa.Column("disagrees", sa.Integer(), nullable=False),
        sa.Column("trace", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_rollout_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_rollout"),
    )
    op.create_index("ix_rollout_run_id_step_reward", "rollout", ["run_id", "step", "reward"])
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        for statement in SQLITE_SEARCH:
            op.execute(statement)
        return
    try:
        with connection.begin_nested():
            for statement in POSTGRES_SEARCH:
                connection.execute(sa.text(statement))
    except sa.exc.DBAPIError:
        pass  # without the extension a search reads the run's completions one by one
