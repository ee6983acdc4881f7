"""The counts of all runs' changes in a few pages of their own, for the list that asks for them every second."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_run_id_changes", "run", ["id", "changes"])
