"""Places an order: 201 placed, 200 placed before, 409 busy, 409 out of stock, 500 on a failure."""

import json
import os

import redis
from redis.exceptions import LockError

from database import connection

# Made once: every call of this instance uses its connection.
store = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=2, socket_connect_timeout=2)

# Longer than an order takes. Who takes longer loses the lock to another call: then the database keeps the stock right.
LOCK_SECONDS = 5


def handler(event, context):
    try:
        order = json.loads(event["body"])
        order_id, item = order["order"], order["item"]
    except (ValueError, TypeError, KeyError):
        order_id = item = None
    if not (is_name(order_id) and is_name(item)):
        return answer(400, 'send {"order": "an id of yours", "item": "lamp"}')
    lock = store.lock(f"place-order:{item}", timeout=LOCK_SECONDS)
    if not lock.acquire(blocking=False):
        return answer(409, "busy", order=order_id, item=item)
    try:
        return place(order_id, item)
    finally:
        try:
            lock.release()
        except LockError:
            context.logger.warn("the order took longer than its lock", item=item)


def is_name(value):
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def place(order_id, item):
    # One transaction: committed when the block ends, rolled back when it is left by an error.
    with connection() as database, database.cursor() as cursor:
        cursor.execute("SELECT stock FROM items WHERE name = %s", (item,))
        if cursor.fetchone() is None:
            return answer(404, "no such item", item=item)
        cursor.execute(
            "INSERT INTO orders (id, item) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING", (order_id, item)
        )
        if cursor.rowcount == 0:
            cursor.execute("SELECT item FROM orders WHERE id = %s", (order_id,))
            known = cursor.fetchone()[0]
            if known == item:
                return answer(200, "placed before", order=order_id, item=item)
            return answer(409, "the id is another order's", order=order_id, item=known)
        cursor.execute("UPDATE items SET stock = stock - 1 WHERE name = %s AND stock > 0", (item,))
        if cursor.rowcount == 0:
            database.rollback()
            return answer(409, "out of stock", order=order_id, item=item)
        return answer(201, "placed", order=order_id, item=item)


def answer(status, result, **more):
    headers = {"content-type": "application/json"}
    if result == "busy":
        headers["retry-after"] = 1
    return {"statusCode": status, "headers": headers, "body": json.dumps({"result": result, **more}) + "\n"}
