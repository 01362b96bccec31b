-- Calls that the platform made: when they were due, by which schedule ('' for an event that somebody asked for), and
-- whether the next one of their schedule ended them. NULL: a caller made it.
ALTER TABLE record
    ADD COLUMN due_us bigint,
    ADD COLUMN schedule text,
    ADD COLUMN replaced boolean;

CREATE OR REPLACE VIEW calls AS
SELECT to_timestamp(r.received_at_us / 1e6) AS received_at, f.tenant, f.namespace, f.name AS function, s.revision,
    s.instance, s.memory_mib, s.cpu_millis, r.run_us, r.wait_us, r.claim_us, r.start_us, r.connect_us, r.status,
    (ARRAY['ok', 'function_error', 'platform_error', 'timeout', 'client_gone', 'aborted'])[r.outcome + 1] AS outcome,
    r.cold, r.warm_slots > 0 AS warm, r.request_bytes, r.response_bytes,
    CASE WHEN r.due_us IS NULL THEN 'http' WHEN r.schedule = '' THEN 'event' ELSE 'schedule' END AS trigger,
    nullif(r.schedule, '') AS schedule, to_timestamp(r.due_us / 1e6) AS due_at, coalesce(r.replaced, false) AS replaced
FROM record r JOIN subject s ON s.id = r.subject JOIN function f ON f.id = r.function;
