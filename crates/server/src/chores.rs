//! What has to be done now and then while the server runs: replies whose server has died are ended,
//! and what has expired or is older than it may be is deleted.

use std::sync::Arc;

use rapport_store::UnixMs;

use crate::web::Accounts;

/// How often replies are looked for whose server has died.
const LOOK_EVERY_MS: i64 = 30_000;
/// How often what has expired is deleted.
const DELETE_EVERY_MS: i64 = 3_600_000;

/// Does the chores for as long as the server runs, at the times of its clock.
pub(crate) async fn run(accounts: Arc<Accounts>) {
    let mut next_deletion = UnixMs(i64::MIN);
    loop {
        let now = accounts.now();
        // What fails now is done the next time.
        let _ = accounts.store.stop_abandoned(now).await;
        if now >= next_deletion && delete(&accounts, now).await.is_ok() {
            next_deletion = now.plus_ms(DELETE_EVERY_MS);
        }
        accounts.clock.reach(now.plus_ms(LOOK_EVERY_MS)).await;
    }
}

async fn delete(accounts: &Accounts, now: UnixMs) -> Result<(), rapport_store::Error> {
    accounts.store.delete_expired(now).await?;
    if let Some(days) = accounts.settings().await?.retention_days {
        let before = now.plus_ms(-i64::from(days) * UnixMs::DAY_MS);
        accounts.store.delete_conversations_before(before).await?;
    }
    Ok(())
}
