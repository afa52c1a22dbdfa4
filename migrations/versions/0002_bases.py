"""Bases, refits and merges: what a space shares, and how sure an error is."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("sr_spaces") as table:
        table.add_column(sa.Column("refit", sa.Boolean(), nullable=False, server_default=sa.true()))
        table.add_column(sa.Column("pseudo_rank", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("k", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("phi", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("sr_spaces") as table:
        table.alter_column("refit", server_default=None)
        table.alter_column("phi", server_default=None)
    with op.batch_alter_table("sr_commits") as table:
        table.add_column(sa.Column("basis", TEXT, nullable=True))
    with op.batch_alter_table("sr_task_versions") as table:
        table.alter_column("budget", existing_type=sa.Float(53), nullable=True)
        table.add_column(sa.Column("norm", sa.Float(53), nullable=False, server_default="0"))
        table.add_column(sa.Column("before", sa.Float(53), nullable=True))
        table.add_column(sa.Column("bound", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("sr_task_versions") as table:
        table.alter_column("norm", server_default=None)
        table.alter_column("bound", server_default=None)
    with op.batch_alter_table("sr_parents") as table:
        table.add_column(sa.Column("weight", TEXT, nullable=True))
