//! Processes under the eye: CPU, anonymous memory, and when they say that they are done.
//!
//! CPU is user and system time in ticks of the kernel (10 ms) or, of a process that has ended,
//! as its parent was told. Memory is the peak of `RssAnon`, sampled every 20 ms.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

const TICKS_PER_SECOND: f64 = 100.0;
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(20);
/// A contender that is not done by then never will be.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that ends with this value, and whose output is read as it comes.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    lines: Receiver<String>,
    anon_peak: u64,
}

impl Running {
    /// Starts it. What it writes to stdout is read; stderr goes to ours.
    ///
    /// # Errors
    /// Whatever starting it ran into.
    pub fn start(command: &mut Command) -> Outcome<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("{name}: {error}"))?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let (send, lines) = channel();
        // Always drained: a process must not wait for us to read what it says.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name, child, lines, anon_peak: 0 })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU seconds so far, of a process that has not been waited for.
    pub fn cpu(&self) -> f64 {
        cpu_of(&self.id().to_string()).0
    }

    /// Peak of anonymous memory in KiB as far as anybody looked.
    pub fn anon_peak(&self) -> u64 {
        self.anon_peak
    }

    /// Looks at its memory.
    pub fn sample(&mut self) {
        self.anon_peak = self.anon_peak.max(anon_kib(self.id()));
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// It has ended, or says nothing for long.
    pub fn line(&mut self) -> Outcome<String> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.map_err(|_| format!("{} ended early or says nothing", self.name).into())
    }

    /// The first line that `found` makes something of; `beside` is looked at meanwhile.
    ///
    /// # Errors
    /// It ends or falls silent before.
    pub fn until<T>(
        &mut self,
        beside: &mut [&mut Self],
        found: impl Fn(&str) -> Option<T>,
    ) -> Outcome<T> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            self.sample();
            beside.iter_mut().for_each(|other| other.sample());
            match self.lines.recv_timeout(SAMPLE) {
                Ok(line) => {
                    if let Some(value) = found(&line) {
                        return Ok(value);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Err(format!("{} never said what it should", self.name).into())
    }

    /// Waits for its end; `beside` is looked at meanwhile. Returns the lines it printed.
    ///
    /// # Errors
    /// It fails, or does not end.
    pub fn finish(&mut self, beside: &mut [&mut Self]) -> Outcome<Vec<String>> {
        let started = Instant::now();
        let mut lines = Vec::new();
        while started.elapsed() < PATIENCE {
            self.sample();
            beside.iter_mut().for_each(|other| other.sample());
            match self.lines.recv_timeout(SAMPLE) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                // Its output has ended, and so it does, right now.
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    return if status.success() {
                        Ok(lines)
                    } else {
                        Err(format!("{} failed: {status}", self.name).into())
                    };
                }
            }
        }
        Err(format!("{} does not end", self.name).into())
    }

    /// Tells it to stop (SIGTERM), and waits for its end. Its last lines.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> Outcome<Vec<String>> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(self.lines.iter().collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until somebody listens there.
///
/// # Errors
/// Nobody does.
pub fn wait_for_port(addr: SocketAddr) -> Outcome<()> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        if TcpStream::connect(addr).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(format!("nobody listens at {addr}").into())
}

/// CPU seconds of this process (threads included) and of its children that were waited for.
pub fn own_cpu() -> (f64, f64) {
    cpu_of("self")
}

/// CPU seconds of a process, and of those of its children that it has waited for.
fn cpu_of(pid: &str) -> (f64, f64) {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: utime, stime, cutime, cstime from the 12th on.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<f64> = rest
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    match ticks[..] {
        [user, system, children_user, children_system] => (
            (user + system) / TICKS_PER_SECOND,
            (children_user + children_system) / TICKS_PER_SECOND,
        ),
        _ => (0.0, 0.0),
    }
}

/// Anonymous memory of a process in KiB, as Linux counts it; 0 if it cannot be told.
pub fn anon_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
