//! Replies that a model is writing into a conversation.
//!
//! A reply has its row before its first word, so that a page that was closed finds it again. While
//! it is [`Streaming`](MessageStatus::Streaming) its server holds a lease, which each
//! [`save_progress`](Store::save_progress) renews; when the server dies the lease runs out and
//! [`stop_abandoned`](Store::stop_abandoned) ends the reply with what was saved of it. The normal
//! end is [`finish_reply`](Store::finish_reply), which also charges, or
//! [`fail_reply`](Store::fail_reply), which does not.
//!
//! Whoever asks names the request (`client_id`): asked again, it gets the same messages.

use rapport_types::{Mode, Role};
use serde::{Deserialize, Serialize};
use sqlx::{Any, Transaction};

use crate::messages::{MESSAGE, insert_message, read_message};
use crate::row::{Columns, storable, to_json};
use crate::search::search_key;
use crate::{
    ConversationId, Error, Message, MessageId, MessageStatus, NewMessage, ReservationId, Store,
    UnixMs, UserId,
};

const MAX_CLIENT_ID_BYTES: usize = 200;

/// Something a person said, and how it is to be answered.
#[derive(Clone, Copy, Debug)]
pub struct NewTurn<'a> {
    /// The client's own name for this request.
    pub client_id: &'a str,
    pub conversation: ConversationId,
    /// The message that this one follows; `None` starts a tree.
    pub parent: Option<MessageId>,
    pub content: &'a str,
    pub mode: Mode,
    /// Whether a second reply is made, to choose between the two.
    pub has_alternative: bool,
    pub lease_until: UnixMs,
}

/// Another reply to something a person said.
#[derive(Clone, Copy, Debug)]
pub struct NewReply<'a> {
    /// The client's own name for this request.
    pub client_id: &'a str,
    pub user_message: MessageId,
    pub mode: Mode,
    pub lease_until: UnixMs,
}

/// A message and the replies that are to be written to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    pub user: Message,
    pub reply: Message,
    pub alternative: Option<Message>,
    /// Whether this call made it: only then is anything to be generated.
    pub is_new: bool,
}

/// A reply that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct BegunReply {
    pub reply: Message,
    /// Whether this call began it: only then is anything to be generated.
    pub is_new: bool,
}

/// What a request led to, as it is remembered.
#[derive(Serialize, Deserialize)]
enum Answer {
    Turn { user: MessageId, reply: MessageId, alternative: Option<MessageId> },
    Reply(MessageId),
    Continued(MessageId),
}

impl Store {
    /// Adds what a person said, and one or two empty replies that are being written.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the conversation, or the parent in it, is not the owner's;
    /// [`Error::Conflict`] when the client's id names another kind of request.
    pub async fn begin_turn(
        &self,
        owner: UserId,
        new: NewTurn<'_>,
        now: UnixMs,
    ) -> Result<Turn, Error> {
        let mut transaction = self.begin().await?;
        let user = NewMessage::text(
            MessageId::new(now),
            new.conversation,
            new.parent,
            Role::User,
            new.content,
        );
        let empty = || empty_reply(new.conversation, user.id, new.mode, now);
        let reply = empty();
        let mut alternative = new.has_alternative.then(empty);
        let answer = Answer::Turn {
            user: user.id,
            reply: reply.id,
            alternative: alternative.as_ref().map(|alternative| alternative.id),
        };
        let asked = ask(&mut transaction, owner, new.client_id, &answer, now).await?;
        if let Some(before) = asked {
            let Answer::Turn { user, reply, alternative } = before else { return Err(OTHER_KIND) };
            let user = find_message(&mut transaction, owner, user).await?;
            let reply = find_message(&mut transaction, owner, reply).await?;
            let alternative = match alternative {
                Some(id) => Some(find_message(&mut transaction, owner, id).await?),
                None => None,
            };
            return Ok(Turn { user, reply, alternative, is_new: false });
        }
        insert_message(&mut transaction, self.dialect, owner, &user, now).await?;
        if let Some(alternative) = &mut alternative {
            alternative.choice_of = Some(reply.id);
            self.insert_reply(&mut transaction, owner, alternative, new.lease_until, now).await?;
        }
        let reply = NewMessage { choice_of: alternative.as_ref().map(|other| other.id), ..reply };
        // The last one added is the one that is shown.
        self.insert_reply(&mut transaction, owner, &reply, new.lease_until, now).await?;
        let user = find_message(&mut transaction, owner, user.id).await?;
        let reply = find_message(&mut transaction, owner, reply.id).await?;
        let alternative = match alternative {
            Some(other) => Some(find_message(&mut transaction, owner, other.id).await?),
            None => None,
        };
        transaction.commit().await?;
        Ok(Turn { user, reply, alternative, is_new: true })
    }

    /// Begins another reply to something a person said: a sibling of those that are there.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the message is not the owner's, [`Error::Invalid`] when it is not
    /// a person's, [`Error::Conflict`] when the client's id names another kind of request.
    pub async fn begin_reply(
        &self,
        owner: UserId,
        new: NewReply<'_>,
        now: UnixMs,
    ) -> Result<BegunReply, Error> {
        let NewReply { client_id, user_message, mode, lease_until } = new;
        let mut transaction = self.begin().await?;
        let user = find_message(&mut transaction, owner, user_message).await?;
        if user.role != Role::User {
            let problem = "only what a person said can be answered".to_owned();
            return Err(Error::Invalid { what: MESSAGE, problem });
        }
        let new = empty_reply(user.conversation, user.id, mode, now);
        let asked = ask(&mut transaction, owner, client_id, &Answer::Reply(new.id), now).await?;
        if let Some(before) = asked {
            let Answer::Reply(id) = before else { return Err(OTHER_KIND) };
            let reply = find_message(&mut transaction, owner, id).await?;
            return Ok(BegunReply { reply, is_new: false });
        }
        self.insert_reply(&mut transaction, owner, &new, lease_until, now).await?;
        let reply = find_message(&mut transaction, owner, new.id).await?;
        transaction.commit().await?;
        Ok(BegunReply { reply, is_new: true })
    }

    /// Goes on with a reply that was stopped or reached the greatest length.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not the owner's; [`Error::Conflict`] when it is not in such a
    /// state, or the client's id names another kind of request.
    pub async fn continue_reply(
        &self,
        owner: UserId,
        client_id: &str,
        reply: MessageId,
        lease_until: UnixMs,
        now: UnixMs,
    ) -> Result<BegunReply, Error> {
        let mut transaction = self.begin().await?;
        find_message(&mut transaction, owner, reply).await?;
        let asked = ask(&mut transaction, owner, client_id, &Answer::Continued(reply), now).await?;
        if let Some(before) = asked {
            if !matches!(before, Answer::Continued(id) if id == reply) {
                return Err(OTHER_KIND);
            }
            let reply = find_message(&mut transaction, owner, reply).await?;
            return Ok(BegunReply { reply, is_new: false });
        }
        let done = sqlx::query(
            "UPDATE messages SET status = 'streaming', error = NULL, lease_until_ms = $1
             WHERE id = $2 AND owner_id = $3 AND role = 'assistant'
             AND status IN ('stopped', 'length')",
        )
        .bind(lease_until.0)
        .bind(reply.to_string())
        .bind(owner.to_string())
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            let problem = "only a reply that was stopped or cut at its length can be continued";
            return Err(Error::Conflict { what: MESSAGE, problem });
        }
        let reply = find_message(&mut transaction, owner, reply).await?;
        transaction.commit().await?;
        Ok(BegunReply { reply, is_new: true })
    }

    /// Saves what there is of a reply, and keeps its lease; `false` when it is no longer being
    /// written, and its writer should end.
    pub async fn save_progress(
        &self,
        owner: UserId,
        reply: MessageId,
        content: &str,
        thought: Option<&str>,
        lease_until: UnixMs,
    ) -> Result<bool, Error> {
        let content = storable(content);
        let done = sqlx::query(
            "UPDATE messages SET content = $1, search_key = $2, thought = $3, lease_until_ms = $4
             WHERE id = $5 AND owner_id = $6 AND status = 'streaming'",
        )
        .bind(&content)
        .bind(search_key(&content))
        .bind(thought.map(storable))
        .bind(lease_until.0)
        .bind(reply.to_string())
        .bind(owner.to_string())
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends a reply that failed, keeping what was saved of it, and gives back what was set aside.
    /// Nothing is charged. Repeating it changes nothing.
    pub async fn fail_reply(
        &self,
        owner: UserId,
        reply: MessageId,
        error: &str,
        reservation: Option<ReservationId>,
    ) -> Result<Message, Error> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "UPDATE messages SET status = 'failed', error = $1, lease_until_ms = NULL
             WHERE id = $2 AND owner_id = $3 AND status = 'streaming'",
        )
        .bind(storable(error))
        .bind(reply.to_string())
        .bind(owner.to_string())
        .execute(&mut *transaction)
        .await?;
        let message = find_message(&mut transaction, owner, reply).await?;
        if let Some(reservation) = reservation {
            release(&mut transaction, owner, reservation).await?;
        }
        transaction.commit().await?;
        Ok(message)
    }

    /// Ends every reply, of everybody, whose server has not been heard of in time: it is stopped
    /// with what was saved and can be continued. Returns how many. Run it at the start and now and
    /// then.
    pub async fn stop_abandoned(&self, now: UnixMs) -> Result<u64, Error> {
        let done = sqlx::query(
            "UPDATE messages SET status = 'stopped', lease_until_ms = NULL
             WHERE status = 'streaming' AND lease_until_ms <= $1",
        )
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected())
    }

    async fn insert_reply(
        &self,
        transaction: &mut Transaction<'_, Any>,
        owner: UserId,
        reply: &NewMessage,
        lease_until: UnixMs,
        now: UnixMs,
    ) -> Result<(), Error> {
        insert_message(transaction, self.dialect, owner, reply, now).await?;
        sqlx::query("UPDATE messages SET lease_until_ms = $1 WHERE id = $2")
            .bind(lease_until.0)
            .bind(reply.id.to_string())
            .execute(&mut **transaction)
            .await?;
        Ok(())
    }
}

const OTHER_KIND: Error =
    Error::Conflict { what: "client_id", problem: "it was used for another request" };

fn empty_reply(
    conversation: ConversationId,
    user: MessageId,
    mode: Mode,
    now: UnixMs,
) -> NewMessage {
    let id = MessageId::new(now);
    NewMessage {
        status: MessageStatus::Streaming,
        mode_asked: Some(mode),
        ..NewMessage::text(id, conversation, Some(user), Role::Assistant, "")
    }
}

/// Remembers what a request led to, or tells what it led to before.
async fn ask(
    transaction: &mut Transaction<'_, Any>,
    owner: UserId,
    client_id: &str,
    answer: &Answer,
    now: UnixMs,
) -> Result<Option<Answer>, Error> {
    if client_id.is_empty() || client_id.len() > MAX_CLIENT_ID_BYTES {
        let problem = format!("it must have 1 to {MAX_CLIENT_ID_BYTES} bytes");
        return Err(Error::Invalid { what: "client_id", problem });
    }
    let client_id = storable(client_id);
    let done = sqlx::query(
        "INSERT INTO asked (owner_id, client_id, answer, created_at_ms) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(owner.to_string())
    .bind(&client_id)
    .bind(to_json(answer))
    .bind(now.0)
    .execute(&mut **transaction)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(None);
    }
    let row = sqlx::query("SELECT answer FROM asked WHERE owner_id = $1 AND client_id = $2")
        .bind(owner.to_string())
        .bind(client_id)
        .fetch_one(&mut **transaction)
        .await?;
    row.json("answer").map(Some)
}

/// Completes the row of a reply that is being written; `false` when there is none.
pub(crate) async fn complete_reply(
    transaction: &mut Transaction<'_, Any>,
    owner: UserId,
    message: &NewMessage,
    now: UnixMs,
) -> Result<bool, Error> {
    let content = storable(&message.content);
    let done = sqlx::query(
        "UPDATE messages SET status = $1, content = $2, search_key = $3, thought = $4, reply = $5,
             error = $6, extra = $7, lease_until_ms = NULL
         WHERE id = $8 AND owner_id = $9 AND conversation_id = $10 AND status = 'streaming'",
    )
    .bind(message.status.as_str())
    .bind(&content)
    .bind(search_key(&content))
    .bind(message.thought.as_deref().map(storable))
    .bind(message.reply.as_ref().map(to_json))
    .bind(message.error.as_deref().map(storable))
    .bind(message.extra.as_ref().map(to_json))
    .bind(message.id.to_string())
    .bind(owner.to_string())
    .bind(message.conversation.to_string())
    .execute(&mut **transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("UPDATE conversations SET updated_at_ms = $1 WHERE id = $2")
        .bind(now.0)
        .bind(message.conversation.to_string())
        .execute(&mut **transaction)
        .await?;
    Ok(true)
}

pub(crate) async fn release(
    transaction: &mut Transaction<'_, Any>,
    user: UserId,
    reservation: ReservationId,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM reservations WHERE id = $1 AND user_id = $2")
        .bind(reservation.to_string())
        .bind(user.to_string())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn find_message(
    transaction: &mut Transaction<'_, Any>,
    owner: UserId,
    id: MessageId,
) -> Result<Message, Error> {
    let row = sqlx::query("SELECT * FROM messages WHERE id = $1 AND owner_id = $2")
        .bind(id.to_string())
        .bind(owner.to_string())
        .fetch_optional(&mut **transaction)
        .await?;
    read_message(&row.ok_or(Error::NotFound { what: MESSAGE })?)
}
