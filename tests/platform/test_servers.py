"""The servers that the other tests stand on."""

import sqlalchemy as sa


def _tables(url: str) -> list[str]:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        before = sa.inspect(connection).get_table_names()
        connection.execute(sa.text("CREATE TABLE mark (id INTEGER)"))
    engine.dispose()
    return before


def test_a_test_gets_an_empty_database(database_url: str) -> None:
    assert _tables(database_url) == []


def test_the_next_test_does_not_see_what_the_last_one_made(database_url: str) -> None:
    assert _tables(database_url) == []


def test_a_postgresql_server_of_ones_own_comes_back_after_a_crash(make_postgres) -> None:
    server = make_postgres()
    server.kill()
    server.restart()
    assert _tables(server.create_database()) == []
