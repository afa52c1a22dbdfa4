"""Long logs: an index for every question that would otherwise read all of a space, and the number of live tasks beside the space."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

HAS_BASIS = sa.text("basis IS NOT NULL")
OLD = {
    "ix_sr_commits_space_time": ("sr_commits", ["space", "time"]),
    "ix_sr_commits_time_space_number": ("sr_commits", ["time", "space", "number"]),
    "ix_sr_task_versions_space_adapter_digest": ("sr_task_versions", ["space", "adapter_digest"]),
    "ix_sr_task_versions_space_number": ("sr_task_versions", ["space", "number"]),
    "ix_sr_aliases_space_name_until": ("sr_aliases", ["space", "name", "until"]),
    "ix_sr_labels_since_space": ("sr_labels", ["since", "space"]),
    "ix_sr_metrics_since_space": ("sr_metrics", ["since", "space"]),
}
NEW = {
    "ix_sr_commits_space_time_number": ("sr_commits", ["space", "time", "number"]),
    "ix_sr_commits_space_kind_number": ("sr_commits", ["space", "kind", "number"]),
    "ix_sr_commits_space_author_number": ("sr_commits", ["space", "author", "number"]),
    "ix_sr_task_versions_space_adapter_digest_number": (
        "sr_task_versions",
        ["space", "adapter_digest", "number"],
    ),
    "ix_sr_task_versions_space_number_task": ("sr_task_versions", ["space", "number", "task"]),
    "ix_sr_aliases_space_name_task": ("sr_aliases", ["space", "name", "task"]),
    "ix_sr_labels_space_since": ("sr_labels", ["space", "since"]),
    "ix_sr_labels_space_name_value_task_version": (
        "sr_labels",
        ["space", "name", "value", "task", "version"],
    ),
    "ix_sr_metrics_space_since": ("sr_metrics", ["space", "since"]),
}
OF_BASES = {
    "ix_sr_commits_bases": ("sr_commits", ["space", "number"]),
    "ix_sr_commits_space_basis": ("sr_commits", ["space", "basis"]),
}


def upgrade() -> None:
    for name, (table, _) in OLD.items():
        op.drop_index(name, table)
    for name, (table, columns) in NEW.items():
        op.create_index(name, table, columns)
    for name, (table, columns) in OF_BASES.items():
        op.create_index(name, table, columns, sqlite_where=HAS_BASIS, postgresql_where=HAS_BASIS)
    op.add_column(
        "sr_spaces", sa.Column("live", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.execute(
        sa.text(
            "UPDATE sr_spaces SET live = (SELECT count(*) FROM sr_task_lives WHERE sr_task_lives.space = sr_spaces.name AND until IS NULL)"
        )
    )


def downgrade() -> None:
    op.drop_column("sr_spaces", "live")
    for name, (table, _) in (OF_BASES | NEW).items():
        op.drop_index(name, table)
    for name, (table, columns) in OLD.items():
        op.create_index(name, table, columns)
