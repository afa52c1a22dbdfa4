"""Versions that were expired or purged."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sr_task_versions", sa.Column("removed", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("sr_task_versions", "removed")
