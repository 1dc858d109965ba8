/// Why the store could not do what was asked; the variants differ by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing with this id belongs to whoever asked. Things of others are not found either.
    #[error("there is no such {what}")]
    NotFound { what: &'static str },
    /// What was asked contradicts what is stored; asking again will not help.
    #[error("{what}: {problem}")]
    Conflict { what: &'static str, problem: &'static str },
    /// What was given cannot be stored as it is.
    #[error("{what}: {problem}")]
    Invalid { what: &'static str, problem: String },
    #[error(
        "the database has schema version {found} and this program knows versions up to \
         {supported}: run the newer program, or restore a backup made before the upgrade"
    )]
    Newer { found: i64, supported: i64 },
    #[error("cannot open the database {location}: check that it exists and may be written")]
    Open { location: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// Busy, out of connections, disk full, restarting. Nothing was changed, or it is unknown
    /// whether the last step was; every write may be repeated with the same id.
    #[error("the store cannot answer now; try again")]
    Busy { source: Box<dyn std::error::Error + Send + Sync> },
    /// A row this program cannot read.
    #[error("the database holds a {what} in a form this program cannot read: found `{found}`")]
    Corrupt { what: &'static str, found: String },
    #[error("line {line} of the dump is not valid: {problem}")]
    Dump { line: usize, problem: String },
    #[error("reading or writing a file failed")]
    File { source: std::io::Error },
    /// A fault of this program.
    #[error("the store failed in a way that is a fault of this program")]
    Internal { source: Box<dyn std::error::Error + Send + Sync> },
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Busy { source: error.into() },
            sqlx::Error::Database(refusal)
                if refusal.code().is_some_and(|code| is_passing(&code)) =>
            {
                Self::Busy { source: error.into() }
            }
            // What a row refers to has gone meanwhile, or never was.
            sqlx::Error::Database(refusal) if refusal.is_foreign_key_violation() => {
                Self::NotFound { what: "row to refer to" }
            }
            // Somebody was faster with the same name.
            sqlx::Error::Database(refusal) if refusal.is_unique_violation() => {
                Self::Conflict { what: "row", problem: "there is one already" }
            }
            _ => Self::Internal { source: error.into() },
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Self::File { source }
    }
}

/// Whether a database's code names a state that passes: SQLite's result codes are decimal numbers
/// whose low byte is the primary code, Postgres' are five characters whose first two are the class.
fn is_passing(code: &str) -> bool {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const READ_ONLY: u32 = 8;
    const IO_ERROR: u32 = 10;
    const FULL: u32 = 13;
    if code.len() == 5 {
        // connection, rollback (deadlock), resources, intervention (shutdown), system
        return ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class));
    }
    code.parse()
        .is_ok_and(|code: u32| [BUSY, LOCKED, READ_ONLY, IO_ERROR, FULL].contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::is_passing;

    #[test]
    fn passing_states_are_told_from_faults() {
        for code in ["5", "517", "13", "778", "40001", "57P01", "53300"] {
            assert!(is_passing(code), "{code}");
        }
        for code in ["1", "19", "2067", "787", "23505", "42601"] {
            assert!(!is_passing(code), "{code}");
        }
    }
}
