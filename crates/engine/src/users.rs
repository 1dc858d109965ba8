//! Who has had how much: a fair share between users.
//!
//! Each user's account counts the tokens computed for them, and whoever has had least goes next
//! (the virtual token counter of Sheng et al., OSDI 2024). A user who comes back starts level with
//! the least served of those who are there: time away earns nothing and costs nothing.
//!
//! What is not here: weights between users, and a price of written tokens other than one.

use std::collections::HashMap;

use crate::request::UserKey;

#[derive(Default)]
pub(crate) struct Users {
    accounts: HashMap<UserKey, Account>,
}

#[derive(Clone, Copy, Default)]
struct Account {
    /// Tokens computed, counted from a beginning that is the same for all.
    service_tokens: u64,
    /// Sequences waiting or running.
    n_sequences: usize,
}

impl Users {
    pub(crate) fn service_tokens(&self, user: UserKey) -> u64 {
        self.accounts.get(&user).map_or(0, |account| account.service_tokens)
    }

    pub(crate) fn arrive(&mut self, user: UserKey) {
        let least = self.least_active();
        let account = self.accounts.entry(user).or_default();
        if account.n_sequences == 0 {
            account.service_tokens = account.service_tokens.max(least);
        }
        account.n_sequences += 1;
    }

    pub(crate) fn charge(&mut self, user: UserKey, n_tokens: usize) {
        if let Some(account) = self.accounts.get_mut(&user) {
            account.service_tokens += n_tokens as u64;
        }
    }

    pub(crate) fn leave(&mut self, user: UserKey) {
        if let Some(account) = self.accounts.get_mut(&user) {
            account.n_sequences -= 1;
            if account.n_sequences == 0 {
                self.forget_level();
            }
        }
    }

    /// Drops the accounts that say nothing: those that would start level anyway.
    fn forget_level(&mut self) {
        if self.accounts.values().all(|account| account.n_sequences == 0) {
            self.accounts.clear();
            return;
        }
        let least = self.least_active();
        self.accounts
            .retain(|_, account| account.n_sequences > 0 || account.service_tokens > least);
    }

    fn least_active(&self) -> u64 {
        let active = self.accounts.values().filter(|account| account.n_sequences > 0);
        active.map(|account| account.service_tokens).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: UserKey = UserKey(1);
    const B: UserKey = UserKey(2);

    #[test]
    fn time_away_earns_nothing_and_leaving_forgives_nothing() {
        let mut users = Users::default();
        users.arrive(A);
        users.charge(A, 100);
        users.arrive(B);
        assert_eq!(users.service_tokens(B), 100);
        users.charge(A, 50);
        users.leave(A);
        users.arrive(A);
        assert_eq!(users.service_tokens(A), 150, "leaving for a moment is no discount");
        users.leave(A);
        users.charge(B, 80);
        users.arrive(A);
        assert_eq!(users.service_tokens(A), 180, "time away is no credit");
    }

    #[test]
    fn only_those_who_owe_are_remembered() {
        let mut users = Users::default();
        users.arrive(A);
        for user in 10..1000 {
            users.arrive(UserKey(user));
            users.charge(UserKey(user), 5);
            users.leave(UserKey(user));
            users.charge(A, 10);
        }
        assert!(users.accounts.len() <= 2, "{}", users.accounts.len());
        users.leave(A);
        assert!(users.accounts.is_empty());
    }
}
