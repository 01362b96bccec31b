"""Takes a provider's word that an invoice was paid: only if it is signed and fresh, and once however often it comes."""

import base64
import hashlib
import hmac
import json
import os
import re
import time

from database import connection

KEY = os.environ["SIGNING_KEY"].encode()
# A captured request is of no use later; clocks may differ by as much.
MOST_SECONDS = 300
# More is a mistake, whoever signed it.
MOST_CENTS = 10**12
SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")


def handler(event, context):
    raw = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"].encode()
    refused = refusal(event["headers"].get("payment-signature", ""), raw)
    if refused:
        context.logger.warn("refused", why=refused)
        return {"statusCode": 401, "body": f"{refused}\n"}
    # It is the provider's from here on.
    try:
        told = json.loads(raw)
        event_id, invoice, cents = told["id"], told["invoice"], told["cents"]
    except (ValueError, TypeError, KeyError):
        return {"statusCode": 400, "body": "not an event: id, invoice and cents are needed\n"}
    if not (is_name(event_id) and is_name(invoice) and type(cents) is int and 0 < cents <= MOST_CENTS):
        return {"statusCode": 400, "body": "id and invoice must be short texts, cents a positive whole number\n"}
    first = pay(event_id, invoice, cents)
    context.logger.info("payment", event=event_id, invoice=invoice, cents=cents, first=first)
    # The same answer both times: otherwise the provider goes on sending it.
    return {"received": event_id}


def is_name(value):
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def refusal(header, raw):
    """Why the request is not to be believed; None when it is."""
    found = SIGNATURE.fullmatch(header)
    if found is None:
        return "payment-signature must be t=SECONDS,v1=HEX"
    sent, signature = found.groups()
    # The time is signed with the body, so that nobody can make an old one young. compare_digest takes as long whatever differs.
    wanted = hmac.new(KEY, sent.encode() + b"." + raw, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted, signature):
        return "the signature is wrong"
    if abs(time.time() - int(sent)) > MOST_SECONDS:
        return "the signature is too old"
    return None


def pay(event_id, invoice, cents):
    """Adds a payment to its invoice unless this event did before; both in one transaction, so that neither is lost alone."""
    with connection() as database, database.cursor() as cursor:
        # One that comes at the same moment waits here for the other's transaction, then finds the row.
        cursor.execute("INSERT INTO payment_events (id) VALUES (%s) ON CONFLICT DO NOTHING", (event_id,))
        if cursor.rowcount == 0:
            return False
        cursor.execute(
            "INSERT INTO invoices AS i (id, paid_cents) VALUES (%s, %s) "
            "ON CONFLICT (id) DO UPDATE SET paid_cents = i.paid_cents + EXCLUDED.paid_cents",
            (invoice, cents),
        )
        return True
