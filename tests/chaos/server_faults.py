"""Redis and PostgreSQL: gone, empty, old, frozen, full."""

from __future__ import annotations

import shutil

from tests.chaos.fault import Fault
from tests.chaos.world import ChaosWorld, pause

FULL_SECONDS = 8.0


def flush_redis(world: ChaosWorld) -> None:
    with world.redis_client() as client:
        client.flushall()


def cut_connections(world: ChaosWorld) -> None:
    with world.redis_client() as client:
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)


def restart_redis(world: ChaosWorld) -> None:
    world.redis.kill()
    world.restart_redis()


def restart_redis_empty(world: ChaosWorld) -> None:
    world.redis.kill()
    shutil.rmtree(world.folder / "redis" / "appendonlydir")
    world.restart_redis()


def restart_redis_from_an_old_file(world: ChaosWorld) -> None:
    """What it knew five seconds ago; permits have ended since, and calls have begun."""
    files, old = world.folder / "redis" / "appendonlydir", world.folder / "old"
    shutil.copytree(files, old)
    pause(5.0)
    world.redis.kill()
    shutil.rmtree(files)
    old.rename(files)
    world.restart_redis()


def freeze_redis(world: ChaosWorld) -> None:
    world.redis.pause()
    pause(20.0)
    world.redis.resume()


def redis_out_of_reach(world: ChaosWorld) -> None:
    world.redis.kill()
    pause(60.0)
    world.restart_redis()


def fill_redis(world: ChaosWorld) -> None:
    """maxmemory below what is used: every write is refused, reads go on."""
    with world.redis_client() as client:
        client.config_set("maxmemory", "1mb")
        pause(FULL_SECONDS)
        client.config_set("maxmemory", "0")


def restart_postgres(world: ChaosWorld) -> None:
    world.postgres.restart()


def drop_connections(world: ChaosWorld) -> None:
    with world.connect() as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )


def freeze_postgres(world: ChaosWorld) -> None:
    thaw = world.freeze_postgres()
    pause(10.0)
    thaw()


def fill_disk(world: ChaosWorld) -> None:
    """Every write of ours fails as on a full disk (53100); reads go on."""
    with world.connect() as conn:
        conn.execute(
            "CREATE OR REPLACE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';"
            " END $$"
        )
        tables = [
            row[0] for row in conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
        for table in tables:
            conn.execute(
                f'CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON "{table}"'
                " FOR EACH STATEMENT EXECUTE FUNCTION no_space()".encode()
            )
        pause(FULL_SECONDS)
        for table in tables:
            conn.execute(f'DROP TRIGGER no_space ON "{table}"'.encode())


SERVER_FAULTS = [
    Fault("redis-flushed", "FLUSHALL", flush_redis),
    Fault("redis-cut", "CLIENT KILL of every connection", cut_connections),
    Fault("redis-restarted", "kill -9, restarted from its append-only file", restart_redis),
    Fault("redis-emptied", "kill -9, restarted empty", restart_redis_empty),
    Fault("redis-old", "kill -9, restarted from an append-only file 5 s old", restart_redis_from_an_old_file),
    Fault("redis-frozen", "SIGSTOP for 20 s", freeze_redis),
    Fault("redis-away", "out of reach for a minute", redis_out_of_reach),
    Fault("redis-full", f"out of memory for {FULL_SECONDS:.0f} s", fill_redis),
    Fault("postgres-restarted", "crash and restart", restart_postgres),
    Fault("postgres-cut", "every connection terminated", drop_connections),
    Fault("postgres-frozen", "SIGSTOP for 10 s", freeze_postgres),
    Fault("postgres-full", f"every write fails with disk_full for {FULL_SECONDS:.0f} s", fill_disk),
]
