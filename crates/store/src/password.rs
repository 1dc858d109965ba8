//! Passwords: Argon2id with the parameters OWASP names first (19 MiB, two passes, one lane).

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::Error;
use crate::secret::random_bytes;

/// How many passwords are hashed at once: each takes 19 MiB and a core, so a flood of sign-ins
/// waits instead of taking the machine.
const MAX_AT_ONCE: usize = 2;

/// The hash that stands in for a user who does not exist or has no password, so that both answers
/// take the same time. It is of 32 random bytes nobody kept.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                      wKHZpW9dVvoVv4A7cVdHx6ZGg0A2s2vhXgGm5yUwq9E";

/// Hashes and checks passwords away from the threads that serve.
#[derive(Debug)]
pub(crate) struct Passwords {
    turns: Semaphore,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self { turns: Semaphore::new(MAX_AT_ONCE) }
    }

    pub(crate) async fn hash(&self, password: &str) -> Result<String, Error> {
        let password = password.to_owned();
        self.work(move || {
            let salt: [u8; 16] = random_bytes();
            let hash = hasher().hash_password_with_salt(password.as_bytes(), &salt);
            hash.map(|hash| hash.to_string())
                .map_err(|source| Error::Internal { source: source.to_string().into() })
        })
        .await?
    }

    /// Whether `password` is the one that was hashed; a missing hash takes as long and is `false`.
    pub(crate) async fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool, Error> {
        let password = password.to_owned();
        let has_hash = hash.is_some();
        let hash = hash.unwrap_or(NOBODY).to_owned();
        self.work(move || {
            PasswordHash::new(&hash)
                .is_ok_and(|hash| hasher().verify_password(password.as_bytes(), &hash).is_ok())
                && has_hash
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Busy { source };
        let _turn = self.turns.acquire().await.map_err(|source| unavailable(source.into()))?;
        spawn_blocking(work).await.map_err(|source| unavailable(source.into()))
    }
}

fn hasher() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_opens() {
        let passwords = Passwords::new();
        let hash = passwords.hash("正しい馬 battery").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.verify("正しい馬 battery", Some(&hash)).await.unwrap());
        assert!(!passwords.verify("正しい馬 batterY", Some(&hash)).await.unwrap());
        assert!(!passwords.verify("", None).await.unwrap());
        assert!(!passwords.verify("x", Some("not a hash")).await.unwrap());
    }

    #[test]
    fn nobody_costs_as_much_as_somebody() {
        let hash = PasswordHash::new(NOBODY).unwrap();
        let params = Params::try_from(&hash).unwrap();
        let (expected, n_bytes) = (Params::DEFAULT, params.output_len());
        assert_eq!(
            (params.m_cost(), params.t_cost(), params.p_cost(), n_bytes),
            (expected.m_cost(), expected.t_cost(), expected.p_cost(), Some(32))
        );
    }
}
