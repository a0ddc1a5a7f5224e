"""How far a project and a rater are, kept with each change instead of counted for each page."""

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
    for table, name in (
        ("projects", "items_open"),
        ("projects", "items_done"),
        ("members", "judged"),
    ):
        op.add_column(table, sa.Column(name, sa.Integer(), server_default="0", nullable=False))
    op.execute(COUNT_ITEMS)
    op.execute(COUNT_JUDGED)
