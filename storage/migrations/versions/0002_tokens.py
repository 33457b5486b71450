"""How many tokens a cost was for."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; of what was spent earlier the tokens are not known, and count as none."""
    op.add_column("cost", sa.Column("tokens", sa.BigInteger, nullable=False, server_default="0"))
