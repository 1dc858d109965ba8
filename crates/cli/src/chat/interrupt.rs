//! Ctrl-C while a reply is written. While a line is edited the editor reads the key itself, and
//! where nobody listens the signal ends the program as usual.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

type Listener = Box<dyn Fn() + Send>;

/// Tells whoever listens that the person wants to interrupt. Clones share the listener.
#[derive(Clone)]
pub struct Interrupts {
    listener: Arc<Mutex<Option<Listener>>>,
    /// The signal has its usual effect: it ends the program.
    ends_program: Arc<AtomicBool>,
}

impl Interrupts {
    /// Interrupts that come only from [`Interrupts::raise`].
    pub fn manual() -> Self {
        Self { listener: Arc::default(), ends_program: Arc::new(AtomicBool::new(true)) }
    }

    /// Interrupts from the signal that Ctrl-C sends; once in a program.
    ///
    /// # Errors
    /// The system refuses the handler or its thread.
    pub fn from_signal() -> io::Result<Self> {
        let interrupts = Self::manual();
        let ends_program = Arc::clone(&interrupts.ends_program);
        signal_hook::flag::register_conditional_default(SIGINT, ends_program)?;
        let mut signals = Signals::new([SIGINT])?;
        let raised = interrupts.clone();
        thread::Builder::new().name("interrupts".to_owned()).spawn(move || {
            for _signal in signals.forever() {
                raised.raise();
            }
        })?;
        Ok(interrupts)
    }

    /// Sends interrupts to `listener` until the guard is dropped.
    pub fn listen(&self, listener: impl Fn() + Send + 'static) -> Listening {
        self.set(Some(Box::new(listener)));
        Listening { interrupts: self.clone() }
    }

    /// Interrupts, as Ctrl-C does; nothing happens when nobody listens.
    pub fn raise(&self) {
        if let Some(listener) = &*self.listener.lock().unwrap_or_else(PoisonError::into_inner) {
            listener();
        }
    }

    fn set(&self, listener: Option<Listener>) {
        let mut current = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        self.ends_program.store(listener.is_none(), Ordering::Release);
        *current = listener;
    }
}

/// Somebody listens to [`Interrupts`].
#[must_use = "interrupts go nowhere once this is dropped"]
pub struct Listening {
    interrupts: Interrupts,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.interrupts.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_the_present_listener_hears() {
        let interrupts = Interrupts::manual();
        let (sender, heard) = mpsc::channel();
        interrupts.raise();
        let listening = interrupts.listen(move || sender.send("heard").unwrap());
        interrupts.raise();
        assert_eq!(heard.try_recv(), Ok("heard"));
        drop(listening);
        interrupts.raise();
        assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }
}
