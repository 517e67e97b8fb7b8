//! Ctrl-C and SIGTERM: the first asks the work to stop in order, the second ends the process.
//!
//! Work that waits asks for [`Interrupt::requested`]; work that computes on a thread of its own
//! looks at the [`Interrupt::flag`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::exit::Exit;

/// Whether the user wants to stop. Clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    flag: Arc<AtomicBool>,
    changed: watch::Receiver<bool>,
}

impl Interrupt {
    /// Begins to listen for the signals, within a tokio runtime.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let (sender, changed) = watch::channel(false);
        let mut signals = Signals::new()?;
        let own = Arc::clone(&flag);
        tokio::spawn(async move {
            signals.next().await;
            own.store(true, Ordering::Relaxed);
            sender.send_replace(true);
            signals.next().await;
            std::process::exit(Exit::Interrupted.code().into());
        });
        Ok(Self { flag, changed })
    }

    /// Waits until the user wants to stop.
    pub(crate) async fn requested(&self) {
        let mut changed = self.changed.clone();
        // The sender lives in a task that only ends with the process.
        if changed.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Becomes true when the user wants to stop.
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.flag
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Without a way to hear of it, there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
