"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "sr_leases",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("expires", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("space", name="pk_sr_leases"),
    )
    op.create_table(
        "sr_registry",
        sa.Column("store", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("store", name="pk_sr_registry"),
    )
    op.create_table(
        "sr_spaces",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("base_model", TEXT, nullable=False),
        sa.Column("base_revision", TEXT, nullable=True),
        sa.Column("base_labels", TEXT, nullable=False),
        sa.Column("budget", sa.Float(53), nullable=False),
        sa.Column("keep_original", sa.Boolean(), nullable=False),
        sa.Column("references", sa.Boolean(), nullable=False),
        sa.Column("head", sa.BigInteger(), nullable=False),
        sa.Column("head_id", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sr_spaces"),
    )
    op.create_table(
        "sr_commits",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("parent", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("time", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("note", TEXT, nullable=True),
        sa.Column("author", TEXT, nullable=True),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("detail", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("space", "number", name="pk_sr_commits"),
        sa.ForeignKeyConstraint(
            ["space"], ["sr_spaces.name"], name="fk_sr_commits_space_sr_spaces"
        ),
        sa.UniqueConstraint("space", "id", name="uq_sr_commits_space_id"),
        sa.UniqueConstraint("space", "key", name="uq_sr_commits_space_key"),
    )
    op.create_index("ix_sr_commits_space_time", "sr_commits", ["space", "time"])
    op.create_index("ix_sr_commits_time_space_number", "sr_commits", ["time", "space", "number"])
    op.create_table(
        "sr_modules",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("module", TEXT, nullable=False),
        sa.Column("out", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.BigInteger(), nullable=False),
        sa.Column("experts", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space", "module", name="pk_sr_modules"),
        sa.ForeignKeyConstraint(
            ["space"], ["sr_spaces.name"], name="fk_sr_modules_space_sr_spaces"
        ),
    )
    op.create_table(
        "sr_objects",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space", "digest", "role", name="pk_sr_objects"),
        sa.ForeignKeyConstraint(
            ["space"], ["sr_spaces.name"], name="fk_sr_objects_space_sr_spaces"
        ),
    )
    op.create_table(
        "sr_tasks",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space", "task", name="pk_sr_tasks"),
        sa.ForeignKeyConstraint(["space"], ["sr_spaces.name"], name="fk_sr_tasks_space_sr_spaces"),
    )
    op.create_table(
        "sr_tags",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space", "name", name="pk_sr_tags"),
        sa.ForeignKeyConstraint(
            ["space", "number"],
            ["sr_commits.space", "sr_commits.number"],
            name="fk_sr_tags_space_sr_commits",
        ),
    )
    op.create_table(
        "sr_task_lives",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("since", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("space", "task", "since", name="pk_sr_task_lives"),
        sa.ForeignKeyConstraint(
            ["space", "task"],
            ["sr_tasks.space", "sr_tasks.task"],
            name="fk_sr_task_lives_space_sr_tasks",
        ),
    )
    op.create_table(
        "sr_task_names",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("task", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space", "name", "since", name="pk_sr_task_names"),
        sa.ForeignKeyConstraint(
            ["space", "task"],
            ["sr_tasks.space", "sr_tasks.task"],
            name="fk_sr_task_names_space_sr_tasks",
        ),
    )
    op.create_index(
        "ix_sr_task_names_space_task_until", "sr_task_names", ["space", "task", "until"]
    )
    op.create_table(
        "sr_task_versions",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("adapter_digest", TEXT, nullable=False),
        sa.Column("layout_digest", TEXT, nullable=False),
        sa.Column("tensors_digest", TEXT, nullable=False),
        sa.Column("source_digest", TEXT, nullable=False),
        sa.Column("budget", sa.Float(53), nullable=False),
        sa.Column("error", sa.Float(53), nullable=False),
        sa.Column("raw_bytes", sa.BigInteger(), nullable=False),
        sa.Column("added_bytes", sa.BigInteger(), nullable=False),
        sa.Column("config_digest", TEXT, nullable=True),
        sa.Column("note_digest", TEXT, nullable=True),
        sa.Column("note_task", TEXT, nullable=False),
        sa.Column("source_kind", TEXT, nullable=True),
        sa.Column("source_location", TEXT, nullable=True),
        sa.Column("source_revision", TEXT, nullable=True),
        sa.Column("restored_from", sa.BigInteger(), nullable=True),
        sa.Column("remarks", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("space", "task", "version", name="pk_sr_task_versions"),
        sa.ForeignKeyConstraint(
            ["space", "number"],
            ["sr_commits.space", "sr_commits.number"],
            name="fk_sr_task_versions_space_sr_commits",
        ),
        sa.ForeignKeyConstraint(
            ["space", "task"],
            ["sr_tasks.space", "sr_tasks.task"],
            name="fk_sr_task_versions_space_sr_tasks",
        ),
        sa.UniqueConstraint(
            "space", "task", "number", name="uq_sr_task_versions_space_task_number"
        ),
    )
    op.create_index(
        "ix_sr_task_versions_space_adapter_digest", "sr_task_versions", ["space", "adapter_digest"]
    )
    op.create_index("ix_sr_task_versions_space_number", "sr_task_versions", ["space", "number"])
    op.create_table(
        "sr_touches",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("task", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("space", "number", "task", name="pk_sr_touches"),
        sa.ForeignKeyConstraint(
            ["space", "number"],
            ["sr_commits.space", "sr_commits.number"],
            name="fk_sr_touches_space_sr_commits",
        ),
        sa.ForeignKeyConstraint(
            ["space", "task"],
            ["sr_tasks.space", "sr_tasks.task"],
            name="fk_sr_touches_space_sr_tasks",
        ),
    )
    op.create_index("ix_sr_touches_space_task_number", "sr_touches", ["space", "task", "number"])
    op.create_table(
        "sr_aliases",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space", "task", "name", "since", name="pk_sr_aliases"),
        sa.ForeignKeyConstraint(
            ["space", "task", "version"],
            ["sr_task_versions.space", "sr_task_versions.task", "sr_task_versions.version"],
            name="fk_sr_aliases_space_sr_task_versions",
        ),
    )
    op.create_index("ix_sr_aliases_space_name_until", "sr_aliases", ["space", "name", "until"])
    op.create_table(
        "sr_labels",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("value", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("space", "task", "version", "name", "since", name="pk_sr_labels"),
        sa.ForeignKeyConstraint(
            ["space", "task", "version"],
            ["sr_task_versions.space", "sr_task_versions.task", "sr_task_versions.version"],
            name="fk_sr_labels_space_sr_task_versions",
        ),
    )
    op.create_index("ix_sr_labels_since_space", "sr_labels", ["since", "space"])
    op.create_table(
        "sr_metrics",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("value", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("space", "task", "version", "name", "since", name="pk_sr_metrics"),
        sa.ForeignKeyConstraint(
            ["space", "task", "version"],
            ["sr_task_versions.space", "sr_task_versions.task", "sr_task_versions.version"],
            name="fk_sr_metrics_space_sr_task_versions",
        ),
    )
    op.create_index("ix_sr_metrics_since_space", "sr_metrics", ["since", "space"])
    op.create_table(
        "sr_parents",
        sa.Column("space", TEXT, nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("position", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("parent_task", sa.BigInteger(), nullable=False),
        sa.Column("parent_version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space", "task", "version", "position", name="pk_sr_parents"),
        sa.ForeignKeyConstraint(
            ["space", "task", "version"],
            ["sr_task_versions.space", "sr_task_versions.task", "sr_task_versions.version"],
            name="fk_sr_parents_space_sr_task_versions",
        ),
    )


def downgrade() -> None:
    op.drop_table("sr_parents")
    op.drop_table("sr_metrics")
    op.drop_table("sr_labels")
    op.drop_table("sr_aliases")
    op.drop_table("sr_touches")
    op.drop_table("sr_task_versions")
    op.drop_table("sr_task_names")
    op.drop_table("sr_task_lives")
    op.drop_table("sr_tags")
    op.drop_table("sr_tasks")
    op.drop_table("sr_objects")
    op.drop_table("sr_modules")
    op.drop_table("sr_commits")
    op.drop_table("sr_spaces")
    op.drop_table("sr_registry")
    op.drop_table("sr_leases")
