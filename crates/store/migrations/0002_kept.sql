-- What clients ask to be kept may also be of the person at this machine, who has no account: there
-- is no owner then, and the space is `local`. Nothing was kept in the tables that go.

DROP TABLE responses;
DROP TABLE deferred;

-- Names are the server's own; each owner has a space of them.
CREATE TABLE responses (
    space TEXT NOT NULL,
    id TEXT NOT NULL,
    owner_id TEXT REFERENCES users (id) ON DELETE CASCADE,
    body TEXT NOT NULL,
    body_bytes BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    PRIMARY KEY (space, id)
);
CREATE INDEX responses_of_owner ON responses (owner_id);
CREATE INDEX responses_by_expiry ON responses (expires_at_ms);

CREATE TABLE deferred (
    space TEXT NOT NULL,
    id TEXT NOT NULL,
    owner_id TEXT REFERENCES users (id) ON DELETE CASCADE,
    status TEXT NOT NULL CHECK (status IN ('pending', 'done', 'failed')),
    body TEXT,
    -- While it is being made: when its maker must have been heard of again.
    lease_until_ms BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    PRIMARY KEY (space, id)
);
CREATE INDEX deferred_of_owner ON deferred (owner_id);
CREATE INDEX deferred_by_expiry ON deferred (expires_at_ms);
