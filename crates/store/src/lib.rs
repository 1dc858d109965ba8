//! Everything Rapport remembers.
//!
//! A [`Store`] is one database: an SQLite file by default, a Postgres that several servers share by
//! URL. Accounts, conversations, stored responses, feedback, the ledger and its quotas, and the
//! events of experiments live here, and nothing above this crate knows SQL.
//!
//! Three promises hold for every function. A write that was answered is on disk. A write may be
//! repeated with the same id: it happens once. A function that takes an owner finds nothing that
//! belongs to anybody else, and answers as if it were not there.
//!
//! What is not here: a clock (times are passed in), files of plans (their text is passed in), HTTP. Whoever calls decides who may; the store decides whose.
//!
//! Start reading at [`Store`], then `migrations/`: the schema is the best overview.
//! `dialect.rs` is all that differs between the two databases.

mod accounting;
mod accounts;
mod attendance;
mod conversations;
mod dialect;
mod dump;
mod error;
mod events;
mod export;
mod feedback;
mod folders;
mod id;
mod keys;
mod ledger;
mod memories;
mod messages;
mod password;
mod plans;
mod quota;
mod responses;
mod row;
mod schema;
mod search;
mod secret;
mod settings;
mod shares;
mod styles;
mod turns;

pub use accounting::{InvalidMonth, Month, UsageDay, usage_csv};
pub use accounts::{InvalidRole, NewUser, SignInIdentity, User, UserRole};
pub use attendance::Attendance;
pub use conversations::{
    Conversation, ConversationChange, ConversationCursor, ConversationFilter, InvalidCursor,
    NewConversation,
};
pub use dialect::Location;
pub use error::Error;
pub use events::{Appended, Event, EventCursor, NewEvent};
pub use feedback::{
    Chip, Feedback, FeedbackCursor, FeedbackDay, Marks, NewFeedback, Signal, Thumb, Verdict,
};
pub use folders::Folder;
pub use id::{
    ApiKeyId, ConversationId, EventId, FeedbackId, FolderId, InvalidId, MemoryId, MessageId,
    ReplyId, ReservationId, ShareId, UnixMs, UserId,
};
pub use keys::{ApiKey, ApiKeyState, NewApiKey};
pub use ledger::{Charge, Charged, Finished, Invoice, InvoiceLine, Price, UsageRow};
pub use memories::Memory;
pub use messages::{InvalidStatus, Message, MessageStatus, NewMessage, ReplyFacts};
pub use plans::{InvalidPlans, Plan, Plans};
pub use quota::{Estimate, Limit, Limits, Meter, Reservation, Reserved};
pub use responses::{Deferred, NewDeferred, NewResponse, StoredResponse};
pub use search::Hit;
pub use secret::Secret;
pub use shares::{Share, SharedConversation, SharedMessage};
pub use styles::Style;
pub use turns::{BegunReply, NewReply, NewTurn, Turn};

use std::path::PathBuf;

use sqlx::{Any, AnyPool, Transaction};

use dialect::{Dialect, Pools};
use password::Passwords;

/// One open database. Cheap to share behind an `Arc`; every function takes `&self`.
#[derive(Debug)]
pub struct Store {
    dialect: Dialect,
    /// Of SQLite.
    file: Option<PathBuf>,
    read: AnyPool,
    write: AnyPool,
    passwords: Passwords,
}

impl Store {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// [`Error::Open`] when it cannot be reached; [`Error::Newer`] when a newer program has
    /// been here, in which case nothing was changed.
    pub async fn open(location: &Location, now: UnixMs) -> Result<Self, Error> {
        let (dialect, Pools { read, write }) = Dialect::connect(location).await?;
        schema::migrate(&write, dialect, now).await?;
        let file = match location {
            Location::Sqlite(path) => Some(path.clone()),
            Location::Postgres(_) => None,
        };
        Ok(Self { dialect, file, read, write, passwords: Passwords::new() })
    }

    /// Whether the database answers.
    pub async fn check(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.read).await?;
        Ok(())
    }

    /// Waits for running statements and closes every connection.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }

    async fn begin(&self) -> Result<Transaction<'static, Any>, Error> {
        Ok(self.write.begin_with(self.dialect.begin_write()).await?)
    }

    async fn begin_snapshot(&self) -> Result<Transaction<'static, Any>, Error> {
        Ok(self.read.begin_with(self.dialect.begin_snapshot()).await?)
    }
}
