"""Closes orders whose time to pay is over."""

from database import connection


def handler(event, context):
    if event["type"] != "schedule":
        return {"statusCode": 405, "headers": {"allow": ""}, "body": "this is done by the clock\n"}
    # By the time at which it was due: run late or twice, it closes the same orders. Those paid in between are not open any more.
    with connection() as database, database.cursor() as cursor:
        cursor.execute(
            "UPDATE orders SET state = 'closed' WHERE state = 'open' AND expires_at <= %s RETURNING id",
            (event["time"],),
        )
        closed = sorted(order_id for (order_id,) in cursor)
    context.logger.info("closed", orders=len(closed), due=event["time"])
    return {"closed": closed}
