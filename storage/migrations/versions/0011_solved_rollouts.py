"""Whether a rollout's answer is right, and how many of a group are: its reward alone does not say so for every task.

Rows that are there kept no verdict. They get what the trainer went by: the part `correct` of their reward, and where a
reward has no such part, the reward itself, which is the best that is known.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

RIGHT = {  # the JSON null of a part that was not finite is not right, a part that is not there is not null
    "sqlite": "CASE WHEN json_type(parts, '$.correct') IS NULL THEN reward ELSE json_extract(parts, '$.correct') END",
    "postgresql": "CASE WHEN parts::json -> 'correct' IS NULL THEN reward"
                  " ELSE (parts::json ->> 'correct')::double precision END",
}
COMPLETIONS = 1024  # numbers of a group, at the end of a rollout's own


def upgrade() -> None:
    op.add_column("rollout", sa.Column("solved", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("rollout_group", sa.Column("solved", sa.Integer(), nullable=False, server_default="0"))
    op.execute(f"UPDATE rollout SET solved = true WHERE {RIGHT[op.get_bind().dialect.name]} >= 1")
    op.execute(
        "UPDATE rollout_group SET solved = (SELECT count(*) FROM rollout WHERE rollout.solved"
        f" AND rollout.id BETWEEN rollout_group.id AND rollout_group.id + {COMPLETIONS - 1})"
    )
