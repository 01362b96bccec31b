CREATE TABLE items (name text PRIMARY KEY, stock integer NOT NULL CHECK (stock >= 0));
CREATE TABLE orders (
  id text PRIMARY KEY,
  item text NOT NULL REFERENCES items,
  placed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO items VALUES ('lamp', 50);
