//! What time it is: the system's, or a test's.

use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::{BoxFuture, FutureExt};
use rapport_store::UnixMs;

/// Tells the time to everything that belongs to people: sessions, keys, quotas, what is deleted when.
pub trait Clock: Debug + Send + Sync {
    fn now(&self) -> UnixMs;

    /// Resolves at `time`, or at once when it has passed.
    fn reach(&self, time: UnixMs) -> BoxFuture<'static, ()>;
}

/// The time that this machine shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        UnixMs(since.map_or(0, |since| since.as_millis() as i64))
    }

    fn reach(&self, time: UnixMs) -> BoxFuture<'static, ()> {
        let rest_ms = time.0.saturating_sub(self.now().0).max(0);
        tokio::time::sleep(Duration::from_millis(rest_ms as u64)).boxed()
    }
}
