"""Progress, kept with each change instead of counted for each page; links for a new password."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COUNT_ITEMS = """
UPDATE projects SET
    items_open = (
        SELECT count(*) FROM items
        WHERE items.project_id = projects.id AND items.use = 'label' AND items.state = 'open'),
    items_done = (
        SELECT count(*) FROM items
        WHERE items.project_id = projects.id AND items.use = 'label'
            AND items.state IN ('done', 'settled'))
"""
COUNT_JUDGED = """
UPDATE members SET judged = (
    SELECT count(DISTINCT judgments.seq) FROM judgments
    WHERE judgments.project_id = members.project_id AND judgments.user_id = members.user_id
        AND judgments.live AND NOT judgments.settles)
"""


def upgrade() -> None:
    op.create_table(
        "resets",
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("expires_s", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_resets_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_resets")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_resets_token_hash")),
    )
    for table, name in (
        ("projects", "items_open"),
        ("projects", "items_done"),
        ("members", "judged"),
    ):
        op.add_column(table, sa.Column(name, sa.Integer(), server_default="0", nullable=False))
    op.create_index(op.f("ix_items_project_id_position"), "items", ["project_id", "position"])
    op.execute(COUNT_ITEMS)
    op.execute(COUNT_JUDGED)
