"""Attempts, their append-only entries of GPU-seconds, and what the seconds went to."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# SQLite's triggers; RAISE(ABORT) undoes the statement and is an IntegrityError in Python.
TRIGGERS = (
    "attempt_closed BEFORE UPDATE ON attempt WHEN OLD.ended_at IS NOT NULL"
    " BEGIN SELECT RAISE(ABORT, 'a closed attempt never changes'); END",
    "attempt_identity BEFORE UPDATE OF id, trial_number, run, host, boot_id, pid, pid_started, opened_at ON attempt"
    " BEGIN SELECT RAISE(ABORT, 'an attempt never becomes another one'); END",
    "attempt_kept BEFORE DELETE ON attempt BEGIN SELECT RAISE(ABORT, 'attempts are never deleted'); END",
    "entry_final BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'entries never change'); END",
    "entry_kept BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'entries are never deleted'); END",
    # the second condition: INSERT OR REPLACE deletes without telling the trigger above
    "entry_open BEFORE INSERT ON entry WHEN EXISTS"
    " (SELECT 1 FROM attempt WHERE id = NEW.attempt_id AND ended_at IS NOT NULL)"
    " OR EXISTS (SELECT 1 FROM entry WHERE id = NEW.id)"
    " BEGIN SELECT RAISE(ABORT, 'entries are only appended, and only to an open attempt'); END",
    "cost_final BEFORE UPDATE ON cost BEGIN SELECT RAISE(ABORT, 'costs never change'); END",
    "cost_kept BEFORE DELETE ON cost BEGIN SELECT RAISE(ABORT, 'costs are never deleted'); END",
)


def upgrade() -> None:
    """Make the three tables and the triggers that keep them honest."""
    op.create_table(
        "attempt",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("trial_number", sa.Integer, nullable=True),
        sa.Column("run", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("pid_started", sa.BigInteger, nullable=False),
        sa.Column("opened_at", sa.String(40), nullable=False),
        sa.Column("ended_at", sa.String(40), nullable=True),
        sa.Column("outcome", sa.String(40), nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="attempt_ends_with_outcome"),
    )
    unended = sa.text("ended_at IS NULL")
    op.create_index(
        "attempt_one_open_per_run", "attempt", ["run"], unique=True, sqlite_where=unended, postgresql_where=unended
    )
    op.create_index("ix_attempt_trial_number", "attempt", ["trial_number"])
    op.create_table(
        "entry",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("attempt_id", sa.Integer, sa.ForeignKey("attempt.id"), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("microseconds", sa.BigInteger, nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.CheckConstraint(
            "(kind = 'lease' AND microseconds > 0) OR (kind = 'refund' AND microseconds < 0)", name="entry_sign"
        ),
    )
    op.create_index("ix_entry_attempt_id", "entry", ["attempt_id"])
    op.create_table(
        "cost",
        sa.Column("attempt_id", sa.Integer, sa.ForeignKey("attempt.id"), primary_key=True),
        sa.Column("cause", sa.String(40), primary_key=True),
        sa.Column("microseconds", sa.BigInteger, nullable=False),
        sa.CheckConstraint("microseconds > 0", name="cost_positive"),
    )
    if op.get_bind().dialect.name == "sqlite":
        for trigger in TRIGGERS:
            op.execute(f"CREATE TRIGGER {trigger}")
