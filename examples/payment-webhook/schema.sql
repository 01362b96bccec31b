CREATE TABLE invoices (id text PRIMARY KEY, paid_cents bigint NOT NULL);
CREATE TABLE payment_events (id text PRIMARY KEY, received_at timestamptz NOT NULL DEFAULT now());
