//! Which replica answers: the same one for each turn of a conversation, as far as that is fair.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::breaker::Breaker;
use crate::client::Client;
use crate::config::{ReplicaConfig, UpstreamConfig};
use crate::{Shared, UpstreamError};

/// Where to ask, and with which key.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Such as `http://127.0.0.1:8000/v1`.
    pub(crate) base: String,
    /// The value of `Authorization`.
    pub(crate) key: Option<HeaderValue>,
}

impl Endpoint {
    fn new(config: &ReplicaConfig) -> Result<Self, UpstreamError> {
        let url = config.url.trim_end_matches('/');
        let bad = || UpstreamError::Address { url: config.url.clone() };
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let rest = rest.ok_or_else(bad)?;
        if rest.is_empty() || rest.contains(['@', '?', '#', ' ']) {
            return Err(bad());
        }
        let base = if rest.contains('/') { url.to_owned() } else { format!("{url}/v1") };
        base.parse::<hyper::Uri>().map_err(|_| bad())?;
        let key = config.key.as_ref().map(|key| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.reveal()))
                .map_err(|_| UpstreamError::Key { url: base.clone() })?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self { key: key.transpose()?, base })
    }
}

struct Replica {
    endpoint: Arc<Endpoint>,
    breaker: Mutex<Breaker>,
    n_running: AtomicUsize,
}

impl Replica {
    fn breaker<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) struct Replicas(Vec<Arc<Replica>>);

/// One request's place at a replica; says how it went, and makes room when it goes.
pub(crate) struct Place {
    replica: Arc<Replica>,
    pub(crate) idx: usize,
    /// Whether it finds out for others how the replica is.
    finds_out: bool,
}

impl Place {
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.replica.endpoint
    }

    pub(crate) fn succeed(&mut self) {
        self.finds_out = false;
        self.replica.breaker(Breaker::succeed);
    }

    pub(crate) fn fail(&mut self) {
        self.finds_out = false;
        self.replica.breaker(|breaker| breaker.fail(Instant::now()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.replica.n_running.fetch_sub(1, Ordering::Relaxed);
        if self.finds_out {
            self.replica.breaker(Breaker::give_up);
        }
    }
}

impl Replicas {
    pub(crate) fn new(config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        if config.replicas.is_empty() {
            return Err(UpstreamError::NoReplicas);
        }
        let replica = |replica: &ReplicaConfig| {
            Ok(Arc::new(Replica {
                endpoint: Arc::new(Endpoint::new(replica)?),
                breaker: Mutex::new(Breaker::new(&config.limits)),
                n_running: AtomicUsize::new(0),
            }))
        };
        Ok(Self(config.replicas.iter().map(replica).collect::<Result<_, UpstreamError>>()?))
    }

    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.0.iter().map(|replica| Arc::clone(&replica.endpoint)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// For how long no replica may be asked, or `None` where one may.
    pub(crate) fn all_refuse_for(&self, now: Instant) -> Option<Duration> {
        let waits =
            self.0.iter().map(|replica| replica.breaker(|breaker| breaker.refuses_for(now)));
        waits.min().flatten()
    }

    /// `None` where some replica is well, as far as is known; else when to ask again.
    pub(crate) fn are_away(&self, now: Instant) -> Option<Duration> {
        if self.0.iter().any(|replica| replica.breaker(|breaker| breaker.is_well())) {
            return None;
        }
        Some(self.all_refuse_for(now).unwrap_or_default())
    }

    /// A place for a conversation, at none of those that were tried where another may be asked.
    ///
    /// The order of replicas is the conversation's own (rendezvous hashing, so that one more or less
    /// moves few conversations); one that has a quarter more to do than the mean is passed over.
    ///
    /// # Errors
    /// How long all of them are left alone.
    pub(crate) fn take(
        &self,
        conversation: &[u8; 32],
        tried: &[usize],
        now: Instant,
    ) -> Result<Place, Duration> {
        let mut may: Vec<usize> = (0..self.0.len())
            .filter(|idx| self.0[*idx].breaker(|breaker| breaker.refuses_for(now)).is_none())
            .collect();
        if may.is_empty() {
            return Err(self.all_refuse_for(now).unwrap_or(Duration::ZERO));
        }
        if may.iter().any(|idx| !tried.contains(idx)) {
            may.retain(|idx| !tried.contains(idx));
        }
        may.sort_by_key(|idx| std::cmp::Reverse(score(conversation, &self.0[*idx].endpoint.base)));
        let load = |idx: usize| self.0[idx].n_running.load(Ordering::Relaxed);
        let total: usize = may.iter().map(|idx| load(*idx)).sum();
        let bound = (total + 1) as f64 * 1.25 / may.len() as f64;
        let has_room = |idx: &&usize| load(**idx) as f64 <= bound;
        let chosen = may.iter().find(has_room).or_else(|| may.iter().min_by_key(|idx| load(**idx)));
        let idx = chosen.copied().unwrap_or(may[0]);
        let replica = Arc::clone(&self.0[idx]);
        replica.n_running.fetch_add(1, Ordering::Relaxed);
        let finds_out = replica.breaker(|breaker| breaker.begin(now));
        Ok(Place { replica, idx, finds_out })
    }

    async fn check(&self, client: &Client, limit: Duration) {
        for replica in &self.0 {
            let asked = timeout(limit, client.get(&replica.endpoint, "/models")).await;
            let is_well = matches!(asked, Ok(Ok((200, _))));
            replica.breaker(|breaker| {
                if is_well { breaker.is_said_well() } else { breaker.fail(Instant::now()) }
            });
        }
    }
}

/// Asks after the replicas' health until nobody needs them any more.
pub(crate) async fn watch(shared: Weak<Shared>) {
    while let Some(wait) = shared.upgrade().map(|shared| shared.limits.health()) {
        tokio::time::sleep(wait).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.replicas.check(&shared.client, shared.limits.connect()).await;
    }
}

fn score(conversation: &[u8; 32], base: &str) -> [u8; 32] {
    Sha256::new().chain_update(conversation).chain_update(base).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn replicas(n: usize) -> Replicas {
        let mut config = UpstreamConfig::new("http://a");
        let url = |idx| format!("http://127.0.0.1:{idx}/v1");
        config.replicas =
            (1..=n).map(|idx| ReplicaConfig { url: url(idx), key_env: None, key: None }).collect();
        Replicas::new(&config).unwrap()
    }

    fn conversation(number: u64) -> [u8; 32] {
        Sha256::digest(number.to_le_bytes()).into()
    }

    #[test]
    fn a_conversation_stays_where_it_was_and_others_are_elsewhere() {
        let (now, three) = (Instant::now(), replicas(3));
        let place = |number| three.take(&conversation(number), &[], now).unwrap().idx;
        let mut counts = [0; 3];
        for number in 0..300 {
            assert_eq!(place(number), place(number));
            counts[place(number)] += 1;
        }
        assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
        // One more moves about a quarter of them, and none between the old ones.
        let four = replicas(4);
        let new = |number| four.take(&conversation(number), &[], now).unwrap().idx;
        let moved: Vec<_> = (0..300).filter(|number| new(*number) != place(*number)).collect();
        assert!(moved.iter().all(|number| new(*number) == 3) && moved.len() < 120);
    }

    #[test]
    fn one_that_has_much_to_do_is_passed_over() {
        let (now, two) = (Instant::now(), replicas(2));
        let places: Vec<_> =
            (0..20).map(|_| two.take(&conversation(1), &[], now).unwrap()).collect();
        let n_first = places.iter().filter(|place| place.idx == places[0].idx).count();
        assert!((10..=14).contains(&n_first), "{n_first}");
        drop(places);
        assert!(two.0.iter().all(|replica| replica.n_running.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn one_that_fails_is_left_alone_and_what_was_tried_is_tried_last() {
        let (now, two) = (Instant::now(), replicas(2));
        let first = two.take(&conversation(1), &[], now).unwrap().idx;
        let other = two.take(&conversation(1), &[first], now).unwrap().idx;
        assert_ne!(first, other);
        for _ in 0..3 {
            two.take(&conversation(1), &[other], now).unwrap().fail();
        }
        assert_eq!(two.take(&conversation(1), &[], now).unwrap().idx, other);
        assert_eq!(two.take(&conversation(1), &[other], now).unwrap().idx, other);
        for _ in 0..3 {
            two.take(&conversation(1), &[], now).unwrap().fail();
        }
        assert!(two.take(&conversation(1), &[], now).is_err_and(|wait| wait > Duration::ZERO));
    }

    #[test]
    fn addresses_are_checked_and_hold_no_secrets() {
        let base = |url: &str| {
            let config = ReplicaConfig { url: url.to_owned(), key_env: None, key: None };
            Endpoint::new(&config).map(|endpoint| endpoint.base)
        };
        assert_eq!(base("http://127.0.0.1:8000").unwrap(), "http://127.0.0.1:8000/v1");
        assert_eq!(base("https://a.example/api/v1/").unwrap(), "https://a.example/api/v1");
        for wrong in ["", "127.0.0.1", "ftp://a", "http://", "http://me:word@a/v1", "http://a b/"] {
            assert!(base(wrong).is_err(), "{wrong}");
        }
        let key = Some(Secret::new("hush\n".to_owned()));
        let config = ReplicaConfig { url: "http://a".to_owned(), key_env: None, key };
        assert!(!Endpoint::new(&config).unwrap_err().to_string().contains("hush"));
    }
}
