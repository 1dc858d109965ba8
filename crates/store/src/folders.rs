//! Folders that a person sorts conversations into.

use serde::Serialize;
use sqlx::any::AnyRow;

use crate::row::{Columns, storable};
use crate::{Error, FolderId, Store, UnixMs, UserId};

const FOLDER: &str = "folder";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Folder {
    pub id: FolderId,
    pub name: String,
    pub created_at: UnixMs,
}

impl Store {
    pub async fn create_folder(
        &self,
        owner: UserId,
        name: &str,
        now: UnixMs,
    ) -> Result<Folder, Error> {
        let folder = Folder { id: FolderId::new(now), name: storable(name), created_at: now };
        sqlx::query(
            "INSERT INTO folders (id, owner_id, name, created_at_ms) VALUES ($1, $2, $3, $4)",
        )
        .bind(folder.id.to_string())
        .bind(owner.to_string())
        .bind(&folder.name)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(folder)
    }

    /// A person's folders, oldest first.
    pub async fn folders(&self, owner: UserId) -> Result<Vec<Folder>, Error> {
        let rows =
            sqlx::query("SELECT * FROM folders WHERE owner_id = $1 ORDER BY created_at_ms, id")
                .bind(owner.to_string())
                .fetch_all(&self.read)
                .await?;
        rows.iter().map(read_folder).collect()
    }

    pub async fn rename_folder(
        &self,
        owner: UserId,
        id: FolderId,
        name: &str,
    ) -> Result<(), Error> {
        let done = sqlx::query("UPDATE folders SET name = $1 WHERE id = $2 AND owner_id = $3")
            .bind(storable(name))
            .bind(id.to_string())
            .bind(owner.to_string())
            .execute(&self.write)
            .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound { what: FOLDER }) } else { Ok(()) }
    }

    /// Deletes a folder; its conversations stay, in none.
    pub async fn delete_folder(&self, owner: UserId, id: FolderId) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "UPDATE conversations SET folder_id = NULL WHERE folder_id = $1 AND owner_id = $2",
        )
        .bind(id.to_string())
        .bind(owner.to_string())
        .execute(&mut *transaction)
        .await?;
        let done = sqlx::query("DELETE FROM folders WHERE id = $1 AND owner_id = $2")
            .bind(id.to_string())
            .bind(owner.to_string())
            .execute(&mut *transaction)
            .await?;
        if done.rows_affected() == 0 {
            return Err(Error::NotFound { what: FOLDER });
        }
        Ok(transaction.commit().await?)
    }
}

pub(crate) fn read_folder(row: &AnyRow) -> Result<Folder, Error> {
    Ok(Folder {
        id: row.parsed("id")?,
        name: row.text("name")?,
        created_at: row.time("created_at_ms")?,
    })
}
