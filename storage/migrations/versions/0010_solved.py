"""Whether a shown held-out answer is right: its reward alone does not say so for every task."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("completion", sa.Column("solved", sa.Boolean(), nullable=True))
