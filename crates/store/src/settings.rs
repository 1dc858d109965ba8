//! What an administrator set for everybody, by key; what the keys mean is the server's to know.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::row::{Columns, storable, to_json};
use crate::{Error, Store};

impl Store {
    /// Every setting that was put.
    pub async fn settings(&self) -> Result<BTreeMap<String, Value>, Error> {
        let rows = sqlx::query("SELECT key, value FROM settings").fetch_all(&self.read).await?;
        rows.iter().map(|row| Ok((row.text("key")?, row.json("value")?))).collect()
    }

    /// Puts these settings over what was there, all or none; null takes one away.
    pub async fn put_settings(&self, settings: &BTreeMap<String, Value>) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        for (key, value) in settings {
            let query = if value.is_null() {
                sqlx::query("DELETE FROM settings WHERE key = $1").bind(storable(key))
            } else {
                sqlx::query(
                    "INSERT INTO settings (key, value) VALUES ($1, $2)
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                )
                .bind(storable(key))
                .bind(to_json(value))
            };
            query.execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Puts a setting unless there is one; returns what is there. Of many who try at once, all get
    /// the same.
    pub async fn setting_or_put(&self, key: &str, value: &Value) -> Result<Value, Error> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO settings (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING",
        )
        .bind(storable(key))
        .bind(to_json(value))
        .execute(&mut *transaction)
        .await?;
        let row = sqlx::query("SELECT value FROM settings WHERE key = $1")
            .bind(storable(key))
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        row.json("value")
    }
}
