"""The runs of the warm service, handed over by rows: the launcher offers a run to a server with a free slot, which claims it.

Both sides only need the database, so any Dagster process can offer, interrupt and examine runs, and no port is open. A row is
also the lease of its run: a server without a row ends its runs. The launchers' side is `runtime/warm_client.py`, the service is
`runtime/warm_service.py`.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, insert, literal, select, text, update

from ls4_assets.db.schema import warm_run, warm_server

# PostgreSQL's channel for a change of a row that a server should see at once. The payload is the server's id.
CHANNEL = "ls4_warm_runs"
# A server that was silent for longer gets no more runs. It sends a heartbeat every second.
SILENT_SECONDS = 10.0

_IS_ALIVE = warm_server.c.seen_at > func.now() - literal(SILENT_SECONDS) * text("interval '1 second'")


@dataclass(frozen=True)
class WarmRun:
    """A run of the warm service. `pid` is None until it has started; `is_silent`: its server sends no heartbeats."""

    run_id: str
    server: str
    arguments: str
    pid: int | None
    is_interrupted: bool
    is_silent: bool


def has_warm_service(connection: Connection) -> bool | None:
    """Whether a server of the warm service sends heartbeats; None: none did within an hour."""
    recent = warm_server.c.seen_at > func.now() - text("interval '1 hour'")
    return connection.scalar(select(func.bool_or(_IS_ALIVE)).where(recent))


# The launchers' side.


def offer_run(engine: Engine, run_id: str, arguments: str, memory_mb: int) -> str | None:
    """Offer a run to the server with the most free slots; returns its id, or None when no server has a free slot for it.

    `memory_mb`: the memory that the run needs.
    """
    accepts = (_IS_ALIVE, ~warm_server.c.is_stopping, warm_server.c.slot_memory_mb >= memory_mb)
    used = select(func.count()).where(warm_run.c.server == warm_server.c.id).scalar_subquery()
    with engine.begin() as connection:
        # Other launchers wait for this lock. Slots are counted behind it, in a statement that sees what they have committed.
        connection.execute(select(warm_server.c.id).where(*accepts).order_by(warm_server.c.id).with_for_update())
        free = select(warm_server.c.id).where(*accepts, used < warm_server.c.slots).order_by(used - warm_server.c.slots)
        server = connection.scalar(free.limit(1))
        if server is not None:
            connection.execute(insert(warm_run).values(run_id=run_id, server=server, arguments=arguments))
            _notify(connection, server)
        return server


def withdraw_offer(engine: Engine, run_id: str) -> bool:
    """Withdraw a run that has not started; returns False when it has."""
    with engine.begin() as connection:
        return connection.execute(delete(warm_run).where(warm_run.c.run_id == run_id, warm_run.c.pid.is_(None))).rowcount > 0


def interrupt_run(engine: Engine, run_id: str) -> bool:
    """Have the server of a run interrupt it; returns False when no server has it."""
    statement = update(warm_run).where(warm_run.c.run_id == run_id).values(is_interrupted=True).returning(warm_run.c.server)
    with engine.begin() as connection:
        server = connection.scalar(statement)
        if server is not None:
            _notify(connection, server)
        return server is not None


def load_run(connection: Connection, run_id: str) -> WarmRun | None:
    """Returns a run; None when the service does not have it, or no longer."""
    statement = select(warm_run, ~_IS_ALIVE).join(warm_server).where(warm_run.c.run_id == run_id)
    row = connection.execute(statement).first()
    return WarmRun(*row) if row else None


def evict_server(engine: Engine, server: str) -> None:
    """Delete a server that is silent, with its runs. If it still exists, it ends them as soon as it reaches the database."""
    with engine.begin() as connection:
        connection.execute(delete(warm_server).where(warm_server.c.id == server, ~_IS_ALIVE))


# The service's side.


def register_server(connection: Connection, server: str, slots: int, slot_memory_mb: int) -> None:
    """Add a server, which gets runs from now on, and delete those that were killed long ago."""
    connection.execute(delete(warm_server).where(warm_server.c.seen_at < func.now() - text("interval '1 hour'")))
    connection.execute(insert(warm_server).values(id=server, slots=slots, slot_memory_mb=slot_memory_mb))


def send_heartbeat(connection: Connection, server: str, *, is_stopping: bool) -> bool:
    """Record that the server is running; returns False when it was evicted."""
    statement = update(warm_server).where(warm_server.c.id == server)
    return connection.execute(statement.values(seen_at=func.now(), is_stopping=is_stopping)).rowcount > 0


def load_runs(connection: Connection, server: str) -> dict[str, WarmRun]:
    """Returns the runs of a server by run ID."""
    rows = connection.execute(select(warm_run, literal(value=False)).where(warm_run.c.server == server))
    return {row.run_id: WarmRun(*row) for row in rows}


def lock_offer(connection: Connection, run_id: str) -> bool:
    """Lock the row of an offered run until the transaction ends; returns False when it was withdrawn."""
    statement = select(warm_run.c.run_id).where(warm_run.c.run_id == run_id, warm_run.c.pid.is_(None))
    return connection.execute(statement.with_for_update()).first() is not None


def record_start(connection: Connection, run_id: str, pid: int) -> None:
    """Record the process of a run."""
    connection.execute(update(warm_run).where(warm_run.c.run_id == run_id).values(pid=pid))


def delete_runs(connection: Connection, run_ids: Collection[str]) -> None:
    """Delete runs whose process has exited."""
    if run_ids:
        connection.execute(delete(warm_run).where(warm_run.c.run_id.in_(run_ids)))


def delete_server(connection: Connection, server: str) -> None:
    """Delete a server that stops."""
    connection.execute(delete(warm_server).where(warm_server.c.id == server))


def _notify(connection: Connection, server: str) -> None:
    connection.execute(select(func.pg_notify(CHANNEL, server)))
