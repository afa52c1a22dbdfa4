"""Policies bound how many versions need one object, and name checks."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("sr_spaces", sa.Column("max_dependents", sa.BigInteger(), nullable=True))
    op.add_column("sr_spaces", sa.Column("require", TEXT, nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("sr_spaces", "require")
    op.drop_column("sr_spaces", "max_dependents")
