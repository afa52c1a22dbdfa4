"""Bytes of the versions beside the space, versions by content; no write leases, long unused."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
COLUMNS = ("added_bytes", "raw_bytes")
CONTENT = ("source_digest", "tensors_digest")


def upgrade() -> None:
    op.drop_table("sr_leases")
    for name in COLUMNS:
        op.add_column(
            "sr_spaces", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
        )
        op.execute(
            sa.text(
                f"UPDATE sr_spaces SET {name} = (SELECT coalesce(sum({name}), 0) FROM sr_task_versions WHERE sr_task_versions.space = sr_spaces.name)"
            )
        )
    for name in CONTENT:
        op.create_index(f"ix_sr_task_versions_space_{name}", "sr_task_versions", ["space", name])


def downgrade() -> None:
    for name in CONTENT:
        op.drop_index(f"ix_sr_task_versions_space_{name}", "sr_task_versions")
    for name in COLUMNS:
        op.drop_column("sr_spaces", name)
    op.create_table(
        "sr_leases",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("expires", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("space", name="pk_sr_leases"),
    )
