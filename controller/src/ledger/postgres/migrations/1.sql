-- What this schema holds is read by people, too: see the views at the end.

-- Everything that was ever recorded, by number.
CREATE TABLE function (
    id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uid       text NOT NULL,
    namespace text NOT NULL,
    name      text NOT NULL,
    tenant    text NOT NULL,
    UNIQUE (uid, tenant, namespace, name)
);

-- What records are about: an instance of a function.
CREATE TABLE subject (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    function   integer NOT NULL REFERENCES function,
    revision   text NOT NULL,
    instance   text NOT NULL,
    memory_mib bigint NOT NULL,
    cpu_millis bigint NOT NULL,
    -- A call has been counted as the one that waited for the start of the instance.
    started    boolean NOT NULL DEFAULT false,
    -- The last day of something that refers to it, and of its coming: it is kept for as long as records of that day are.
    seen       date NOT NULL,
    UNIQUE (function, revision, instance, memory_mib, cpu_millis)
);
CREATE INDEX subject_seen ON subject (seen);

-- How far each life of each activator was applied. The row's lock is what makes two writers one after the other.
CREATE TABLE epoch (
    -- Unsigned, with its highest bit turned, so that it sorts as it counts.
    activator bigint NOT NULL,
    epoch     bigint NOT NULL,
    watermark bigint NOT NULL,
    -- Records that are not kept any longer.
    forgotten bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (activator, epoch)
);

-- One row a call. No unique index: the watermark is what makes records unique.
CREATE TABLE record (
    -- Of the hour, UTC: a clock that is far off counts in the first or last one.
    day            date NOT NULL,
    -- Hours since 1970 UTC.
    hour           integer NOT NULL,
    function       integer NOT NULL,
    subject        integer NOT NULL,
    activator      bigint NOT NULL,
    epoch          bigint NOT NULL,
    seq            bigint NOT NULL,
    call           bigint NOT NULL,
    received_at_us bigint NOT NULL,
    wait_us        bigint NOT NULL,
    claim_us       bigint NOT NULL,
    start_us       bigint NOT NULL,
    connect_us     bigint NOT NULL,
    run_us         bigint NOT NULL,
    request_bytes  bigint NOT NULL,
    response_bytes bigint NOT NULL,
    key            bigint NOT NULL,
    status         integer NOT NULL,
    warm_slots     integer NOT NULL,
    outcome        smallint NOT NULL,
    cold           boolean NOT NULL,
    first          boolean NOT NULL
) PARTITION BY RANGE (day);
CREATE INDEX record_hour ON record USING brin (hour) WITH (pages_per_range = 16);

-- One row: what is kept no longer (nothing of what lies before: minutes, hours, records by their hour), and before which
-- hour months are closed, and every tenant has its statement of them. Minutes and hours since 1970 UTC.
CREATE TABLE state (
    minute        bigint NOT NULL,
    hour          bigint NOT NULL,
    record_hour   bigint NOT NULL,
    closed_before bigint NOT NULL,
    told_before   bigint NOT NULL
);
INSERT INTO state VALUES (0, 0, 0, 0, 0);

-- Functions and months (since 1970-01) to which something was added after the month had been closed.
CREATE TABLE late (
    function integer NOT NULL,
    month    bigint NOT NULL,
    PRIMARY KEY (function, month)
);

-- Statements of closed months. They are never changed.
CREATE TABLE statement (
    tenant   text NOT NULL,
    month    bigint NOT NULL,
    document bytea NOT NULL,
    PRIMARY KEY (tenant, month)
);

-- Sums by length of time (0: minutes, 1: hours, 2: days, since 1970 UTC) and function. What happened is in one minute and
-- in one hour; in one day once its hours are not kept any longer.
CREATE TABLE usage (
    level          smallint NOT NULL,
    function       integer NOT NULL,
    time           bigint NOT NULL,
    cold           bigint NOT NULL,
    wait_us        bigint NOT NULL,
    claim_us       bigint NOT NULL,
    start_us       bigint NOT NULL,
    connect_us     bigint NOT NULL,
    run_us         bigint NOT NULL,
    request_bytes  bigint NOT NULL,
    response_bytes bigint NOT NULL,
    warm_mib_ms       bigint NOT NULL,
    warm_mcpu_ms      bigint NOT NULL,
    warm_used_mib_ms  bigint NOT NULL,
    warm_used_mcpu_ms bigint NOT NULL,
    PRIMARY KEY (level, function, time)
);

-- The same by class of calls: how many (step_ms 0), and their time by each rule of rounding.
CREATE TABLE usage_class (
    level    smallint NOT NULL,
    function integer NOT NULL,
    time     bigint NOT NULL,
    -- outcome + 6 if on warm capacity + 12 if an attempt that is not billed because the caller repeats it
    class    smallint NOT NULL,
    step_ms  bigint NOT NULL,
    min_ms   bigint NOT NULL,
    start    boolean NOT NULL,
    calls    bigint NOT NULL,
    ms       bigint NOT NULL,
    mib_ms   bigint NOT NULL,
    mcpu_ms  bigint NOT NULL,
    PRIMARY KEY (level, function, time, class, step_ms, min_ms, start)
);

-- Up to when the warm time of an instance has been counted, and whether it was kept warm behind that.
CREATE TABLE warm (
    subject  integer PRIMARY KEY,
    until_us bigint NOT NULL DEFAULT 0,
    open     boolean NOT NULL DEFAULT false
);

CREATE VIEW calls AS
SELECT to_timestamp(r.received_at_us / 1e6) AS received_at, f.tenant, f.namespace, f.name AS function, s.revision,
    s.instance, s.memory_mib, s.cpu_millis, r.run_us, r.wait_us, r.claim_us, r.start_us, r.connect_us, r.status,
    (ARRAY['ok', 'function_error', 'platform_error', 'timeout', 'client_gone', 'aborted'])[r.outcome + 1] AS outcome,
    r.cold, r.warm_slots > 0 AS warm, r.request_bytes, r.response_bytes
FROM record r JOIN subject s ON s.id = r.subject JOIN function f ON f.id = r.function;

CREATE VIEW usage_by_hour AS
SELECT to_timestamp(c.time * 3600.0) AS hour, f.tenant, f.namespace, f.name AS function, sum(c.calls) AS calls
FROM usage_class c JOIN function f ON f.id = c.function
WHERE c.level = 1 AND c.step_ms = 0
GROUP BY c.time, f.tenant, f.namespace, f.name;
