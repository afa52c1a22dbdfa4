"""Bases, refits and merges: what a space shares, and how sure an error is.

SQLite changes columns by making a table anew, which other tables refer to, so columns are added,
renamed and dropped instead. A default that adding needs stays there.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
REAL = sa.Float(53)


def upgrade() -> None:
    op.add_column(
        "sr_spaces", sa.Column("refit", sa.Boolean(), nullable=False, server_default=sa.true())
    )
    op.add_column("sr_spaces", sa.Column("pseudo_rank", sa.BigInteger(), nullable=True))
    op.add_column("sr_spaces", sa.Column("k", sa.BigInteger(), nullable=True))
    op.add_column(
        "sr_spaces", sa.Column("phi", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column("sr_commits", sa.Column("basis", TEXT, nullable=True))
    op.add_column("sr_task_versions", sa.Column("norm", REAL, nullable=False, server_default="0"))
    op.add_column("sr_task_versions", sa.Column("before", REAL, nullable=True))
    op.add_column(
        "sr_task_versions",
        sa.Column("bound", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("sr_parents", sa.Column("weight", TEXT, nullable=True))
    replace_budget(sa.Column("budget_new", REAL, nullable=True), "budget")


def downgrade() -> None:
    replace_budget(
        sa.Column("budget_new", REAL, nullable=False, server_default="0"), "coalesce(budget, error)"
    )
    op.drop_column("sr_parents", "weight")
    for name in ("bound", "before", "norm"):
        op.drop_column("sr_task_versions", name)
    op.drop_column("sr_commits", "basis")
    for name in ("phi", "k", "pseudo_rank", "refit"):
        op.drop_column("sr_spaces", name)


def replace_budget(column: "sa.Column[float]", value: str) -> None:
    """Put a column in the place of the budgets, filled with an expression."""
    op.add_column("sr_task_versions", column)
    op.execute(sa.text(f"UPDATE sr_task_versions SET budget_new = {value}"))
    op.drop_column("sr_task_versions", "budget")
    op.alter_column("sr_task_versions", "budget_new", new_column_name="budget")
