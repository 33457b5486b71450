"""The ledger's tables as SQLAlchemy models. The newest migration makes exactly these, and a test compares the two."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Model(DeclarativeBase):
    """Our tables, as the newest migration makes them."""


class AttemptRow(Model):
    """An attempt. Only its end is ever written later, once. Times are ISO texts in UTC, for people to read."""

    __tablename__ = "attempt"
    __table_args__ = (
        CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="attempt_ends_with_outcome"),
        Index(
            "attempt_one_open_per_run",
            "run",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    trial_number: Mapped[int | None] = mapped_column(index=True)
    run: Mapped[str] = mapped_column(String(255))
    host: Mapped[str] = mapped_column(String(255))
    boot_id: Mapped[str] = mapped_column(String(64))
    pid: Mapped[int]
    pid_started: Mapped[int] = mapped_column(BigInteger)
    opened_at: Mapped[str] = mapped_column(String(40))
    ended_at: Mapped[str | None] = mapped_column(String(40))
    outcome: Mapped[str | None] = mapped_column(String(40))
    reason: Mapped[str] = mapped_column(Text, default="")


class EntryRow(Model):
    """A lease paid (above 0) or its unused part refunded (below 0). Append-only: triggers refuse all else."""

    __tablename__ = "entry"
    __table_args__ = (
        CheckConstraint(
            "(kind = 'lease' AND microseconds > 0) OR (kind = 'refund' AND microseconds < 0)", name="entry_sign"
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempt.id"), index=True)
    kind: Mapped[str] = mapped_column(String(10))
    microseconds: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[str] = mapped_column(String(40))


class CostRow(Model):
    """What part of a closed attempt's charge went to one cause, and how many tokens were made or read for it."""

    __tablename__ = "cost"
    __table_args__ = (CheckConstraint("microseconds > 0", name="cost_positive"),)

    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempt.id"), primary_key=True)
    cause: Mapped[str] = mapped_column(String(40), primary_key=True)
    microseconds: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
