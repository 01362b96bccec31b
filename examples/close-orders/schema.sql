CREATE TABLE orders (
  id text PRIMARY KEY,
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'paid', 'closed')),
  expires_at timestamptz NOT NULL
);
-- Only what may have to be closed is looked at.
CREATE INDEX orders_open ON orders (expires_at) WHERE state = 'open';
