"""The one connection of this instance to PostgreSQL."""

import os

import psycopg2

_connection = None


def connection():
    """Made by the first call that needs it and used by all later ones; made anew after it broke."""
    global _connection
    if _connection is None or _connection.closed:
        _connection = psycopg2.connect(
            os.environ["DATABASE_URL"], connect_timeout=5, application_name=os.environ.get("K_SERVICE", "")
        )
    return _connection
