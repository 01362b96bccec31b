-- Records that are taken back: each once, for ever. What they were, by whom and why is in `body`.
CREATE TABLE reversal (
    function  integer NOT NULL,
    -- Hours since 1970 UTC: the one that the record is billed in.
    hour      bigint NOT NULL,
    -- As in `epoch`.
    activator bigint NOT NULL,
    epoch     bigint NOT NULL,
    seq       bigint NOT NULL,
    body      bytea NOT NULL,
    PRIMARY KEY (function, hour, activator, epoch, seq)
);
