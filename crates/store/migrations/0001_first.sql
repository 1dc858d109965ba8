-- One schema for SQLite and Postgres: only TEXT and BIGINT, so that every row can also be written
-- as a line of JSON. Times are milliseconds since 1970 in UTC, flags are 0 or 1, money is in
-- millionths of the operator's currency, documents are JSON in TEXT.

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL CHECK (role IN ('admin', 'user')),
    plan TEXT NOT NULL,
    locale TEXT,
    password_hash TEXT,
    has_consent BIGINT NOT NULL CHECK (has_consent IN (0, 1)),
    created_at_ms BIGINT NOT NULL,
    last_seen_at_ms BIGINT,
    disabled_at_ms BIGINT
);

CREATE TABLE identities (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX identities_of_user ON identities (user_id);

CREATE TABLE sessions (
    secret_hash TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL
);
CREATE INDEX sessions_of_user ON sessions (user_id);

-- A link that works once: to join with a role, or to sign in as a user.
CREATE TABLE links (
    secret_hash TEXT PRIMARY KEY,
    join_role TEXT CHECK (join_role IN ('admin', 'user')),
    user_id TEXT REFERENCES users (id) ON DELETE CASCADE,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    used_at_ms BIGINT,
    CHECK ((join_role IS NULL) <> (user_id IS NULL))
);
CREATE INDEX links_of_user ON links (user_id);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    secret_hash TEXT NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    revoked_at_ms BIGINT,
    last_used_at_ms BIGINT
);
CREATE INDEX api_keys_of_user ON api_keys (user_id, created_at_ms);

CREATE TABLE folders (
    id TEXT PRIMARY KEY,
    owner_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (id, owner_id)
);
CREATE INDEX folders_of_owner ON folders (owner_id, created_at_ms);

CREATE TABLE conversations (
    id TEXT PRIMARY KEY,
    owner_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    title TEXT NOT NULL,
    title_key TEXT NOT NULL,
    folder_id TEXT,
    persona TEXT,
    mode TEXT NOT NULL,
    is_pinned BIGINT NOT NULL CHECK (is_pinned IN (0, 1)),
    -- The message whose branch is shown; not a reference, since messages refer to conversations.
    head_id TEXT,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    UNIQUE (id, owner_id),
    FOREIGN KEY (folder_id, owner_id) REFERENCES folders (id, owner_id)
        DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX conversations_of_owner ON conversations (owner_id, is_pinned, updated_at_ms, id);
CREATE INDEX conversations_of_folder ON conversations (folder_id);
CREATE INDEX conversations_by_age ON conversations (updated_at_ms);

-- A tree, one row a message. The owner is repeated so that no row can be reached, or hung, across
-- owners; the references are deferred so that a conversation of any depth goes in one statement.
CREATE TABLE messages (
    id TEXT PRIMARY KEY,
    conversation_id TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    parent_id TEXT,
    role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
    status TEXT NOT NULL CHECK (status IN ('done', 'streaming', 'stopped', 'failed', 'length')),
    content TEXT NOT NULL,
    thought TEXT,
    mode_asked TEXT,
    reply TEXT,
    error TEXT,
    extra TEXT,
    -- Of a blind choice between two replies: the other one.
    choice_of TEXT,
    -- While it is being written: when its writer must have been heard of again.
    lease_until_ms BIGINT,
    -- The folded content, where it differs from the content.
    search_key TEXT,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (conversation_id, id),
    FOREIGN KEY (conversation_id, owner_id) REFERENCES conversations (id, owner_id)
        ON DELETE CASCADE,
    FOREIGN KEY (conversation_id, parent_id) REFERENCES messages (conversation_id, id)
        DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX messages_of_parent ON messages (conversation_id, parent_id);
CREATE INDEX messages_of_owner ON messages (owner_id, created_at_ms, id);
CREATE INDEX messages_being_written ON messages (lease_until_ms) WHERE status = 'streaming';

-- What a client asked for under a name of its own, so that asking again starts nothing new.
CREATE TABLE asked (
    owner_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    client_id TEXT NOT NULL,
    answer TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (owner_id, client_id)
);
CREATE INDEX asked_by_age ON asked (created_at_ms);

-- The token is not hashed: whoever reads it here reads what it opens in the same row.
CREATE TABLE shares (
    id TEXT PRIMARY KEY,
    owner_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    token TEXT NOT NULL UNIQUE,
    snapshot TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    FOREIGN KEY (conversation_id, owner_id) REFERENCES conversations (id, owner_id)
        ON DELETE CASCADE
);
CREATE INDEX shares_of_conversation ON shares (conversation_id, owner_id);
CREATE INDEX shares_of_owner ON shares (owner_id, created_at_ms);

-- Names are the server's own; each owner has a space of them.
CREATE TABLE responses (
    owner_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    PRIMARY KEY (owner_id, id)
);
CREATE INDEX responses_by_expiry ON responses (expires_at_ms);

CREATE TABLE deferred (
    owner_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'done', 'failed')),
    body TEXT,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    PRIMARY KEY (owner_id, id)
);
CREATE INDEX deferred_by_expiry ON deferred (expires_at_ms);

CREATE TABLE feedback (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    conversation_id TEXT,
    message_id TEXT,
    reply_id TEXT,
    build TEXT NOT NULL,
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    has_consent BIGINT NOT NULL CHECK (has_consent IN (0, 1)),
    created_at_ms BIGINT NOT NULL,
    FOREIGN KEY (conversation_id, user_id) REFERENCES conversations (id, owner_id)
        ON DELETE CASCADE
);
CREATE INDEX feedback_of_user ON feedback (user_id, created_at_ms, id);
CREATE INDEX feedback_of_conversation ON feedback (conversation_id, user_id);
CREATE INDEX feedback_in_order ON feedback (created_at_ms, id);

CREATE TABLE styles (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    body TEXT NOT NULL,
    -- The version that undoing brings back; 0 is how it was before the first.
    undo_to BIGINT,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, version)
);

CREATE TABLE memories (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    text TEXT NOT NULL,
    source TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL
);
CREATE INDEX memories_of_user ON memories (user_id, created_at_ms, id);

-- Kept when its user goes, without the user.
CREATE TABLE ledger (
    reply_id TEXT PRIMARY KEY,
    user_id TEXT REFERENCES users (id) ON DELETE SET NULL,
    api_key_id TEXT REFERENCES api_keys (id) ON DELETE SET NULL,
    plan TEXT NOT NULL,
    model TEXT NOT NULL,
    build TEXT NOT NULL,
    prompt_tokens BIGINT NOT NULL CHECK (prompt_tokens >= 0),
    cached_tokens BIGINT NOT NULL CHECK (cached_tokens >= 0),
    completion_tokens BIGINT NOT NULL CHECK (completion_tokens >= 0),
    reasoning_tokens BIGINT NOT NULL CHECK (reasoning_tokens >= 0),
    cost_micros BIGINT NOT NULL CHECK (cost_micros >= 0),
    charged_at_ms BIGINT NOT NULL
);
CREATE INDEX ledger_of_user ON ledger
    (user_id, charged_at_ms, prompt_tokens, completion_tokens, reasoning_tokens, cost_micros);
CREATE INDEX ledger_of_key ON ledger (api_key_id);
CREATE INDEX ledger_by_time ON ledger (charged_at_ms);

CREATE TABLE reservations (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    tokens BIGINT NOT NULL CHECK (tokens >= 0),
    thinking_tokens BIGINT NOT NULL CHECK (thinking_tokens >= 0),
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL
);
CREATE INDEX reservations_of_user ON reservations (user_id, expires_at_ms);

-- Assignments, exposures, votes, changes of a rollout: the streams and kinds belong to the reader.
CREATE TABLE events (
    id TEXT PRIMARY KEY,
    stream TEXT NOT NULL,
    kind TEXT NOT NULL,
    user_id TEXT REFERENCES users (id) ON DELETE SET NULL,
    once_key TEXT,
    body TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (stream, once_key)
);
CREATE INDEX events_of_stream ON events (stream, created_at_ms, id);
CREATE INDEX events_of_user ON events (user_id);

-- What an administrator set for everybody.
CREATE TABLE settings (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
