//! Whether a model can answer yet.

use std::fmt;

/// Whether a model can answer now, or what it waits for.
///
/// What is displayed is for whoever asks the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// It is being brought to this machine. A pull has stages, so the bytes may begin anew; `None`
    /// is not known.
    Pulling {
        done_bytes: Option<u64>,
        total_bytes: Option<u64>,
    },
    /// It is on this machine and being read.
    Loading,
    /// The engine behind HTTP that answers has failed and is left alone for so long. A request may be
    /// tried all the same: one of them finds out whether it is back.
    Away {
        retry_after_s: u32,
    },
    /// Nothing more happens before [`crate::Generate::try_again`]. The reason is for whoever runs the
    /// model: it may name paths and addresses.
    Failed {
        reason: String,
    },
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Pulling { done_bytes: Some(done), total_bytes: Some(total) } => {
                write!(f, "being brought to this machine, {done} of {total} bytes")
            }
            Self::Pulling { .. } => f.write_str("being brought to this machine"),
            Self::Loading => f.write_str("being loaded"),
            Self::Away { retry_after_s } => {
                write!(
                    f,
                    "out of reach: its engine does not answer; try again in {retry_after_s} s"
                )
            }
            Self::Failed { .. } => {
                f.write_str("not to be had: whoever runs this server sees why and can try again")
            }
        }
    }
}
