"""A count of each run's changes, by which a list knows what it need not read again."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("changes", sa.Integer(), nullable=False, server_default="0"))
