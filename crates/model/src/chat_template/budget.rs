//! What one rendering may cost. A chat template is a program that comes with a model file, so it
//! is run as a stranger's program: every step and every byte is paid for before it happens.

use super::fault::{Fault, TemplateLimit};

/// Reading this much text costs a step.
const SCANNED_BYTES_A_STEP: usize = 64;

/// What is left of the steps and bytes of one rendering.
///
/// Steps bound the time, bytes the memory. Bytes given back are not counted back: the sum of all
/// text ever written is bounded, so the peak is too.
#[derive(Debug)]
pub(super) struct Budget {
    steps: u64,
    bytes: u64,
}

impl Budget {
    /// Enough for any honest template over a conversation of this size, and at most a moment's
    /// work: templates look at each message some hundred times and copy each content a few times.
    pub(super) fn for_conversation(n_messages: usize, content_bytes: usize) -> Self {
        let (n_messages, content_bytes) = (n_messages as u64, content_bytes as u64);
        Self {
            steps: 2_000_000 + 5_000 * n_messages + content_bytes,
            bytes: (32 << 20) + 32 * content_bytes,
        }
    }

    pub(super) fn spend_steps(&mut self, n: u64) -> Result<(), Fault> {
        self.steps = self.steps.checked_sub(n).ok_or(Fault::Limit(TemplateLimit::Steps))?;
        Ok(())
    }

    /// Pays for writing text.
    pub(super) fn spend_bytes(&mut self, n: usize) -> Result<(), Fault> {
        self.bytes = self.bytes.checked_sub(n as u64).ok_or(Fault::Limit(TemplateLimit::Memory))?;
        self.spend_scan(n)
    }

    /// Pays for reading text.
    pub(super) fn spend_scan(&mut self, n_bytes: usize) -> Result<(), Fault> {
        self.spend_steps(1 + (n_bytes / SCANNED_BYTES_A_STEP) as u64)
    }

    /// Pays for a list of `n` values.
    pub(super) fn spend_items(&mut self, n: usize) -> Result<(), Fault> {
        const VALUE_BYTES: usize = size_of::<super::value::Value>();
        self.spend_steps(n as u64)?;
        self.spend_bytes(n.saturating_mul(VALUE_BYTES))
    }

    #[cfg(test)]
    pub(super) fn unlimited() -> Self {
        Self { steps: u64::MAX, bytes: u64::MAX }
    }
}
