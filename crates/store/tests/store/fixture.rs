//! Empty databases: SQLite files, and schemas in a private PostgreSQL server.

use rapport_store::{
    ConversationId, Location, MessageId, NewMessage, NewUser, Store, UnixMs, User, UserRole,
};
use rapport_testkit::Cluster;
use rapport_types::Role;
use tempfile::TempDir;

/// When every test begins: noon of some day.
pub(crate) const NOON: UnixMs = UnixMs(20_000 * UnixMs::DAY_MS + UnixMs::DAY_MS / 2);

/// A minute and more after `NOON`, so that expiries can be told apart.
pub(crate) fn minutes(n: i64) -> UnixMs {
    NOON.plus_ms(n * 60_000)
}

/// An empty database that was opened once.
pub(crate) struct Database {
    pub(crate) location: Location,
    pub(crate) store: Store,
}

impl Database {
    pub(crate) async fn on(cluster: &Cluster) -> Self {
        Self::open(Location::Postgres(cluster.url())).await
    }

    async fn open(location: Location) -> Self {
        let store = Store::open(&location, NOON).await.unwrap();
        Self { location, store }
    }

    /// Another server on the same database.
    pub(crate) async fn second_store(&self) -> Store {
        Store::open(&self.location, NOON).await.unwrap()
    }

    pub(crate) async fn member(&self, name: &str) -> User {
        member(&self.store, name).await
    }
}

pub(crate) fn new_user(name: &str, role: UserRole) -> NewUser<'_> {
    NewUser { name, role, plan: "free", password: None }
}

pub(crate) async fn member(store: &Store, name: &str) -> User {
    store.create_user(new_user(name, UserRole::User), NOON).await.unwrap()
}

pub(crate) fn message(
    conversation: ConversationId,
    parent: Option<MessageId>,
    role: Role,
    content: &str,
) -> NewMessage {
    NewMessage::text(MessageId::new(NOON), conversation, parent, role, content)
}

/// A folder with an SQLite file.
pub(crate) struct Sqlite {
    folder: TempDir,
}

impl Sqlite {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn location(&self) -> Location {
        Location::Sqlite(self.folder.path().join("rapport.db"))
    }

    pub(crate) async fn database(&self) -> Database {
        Database::open(self.location()).await
    }
}
