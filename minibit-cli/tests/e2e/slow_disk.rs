//! A disk as slow as a test wants it, under one real process, on any file system and without privileges.
//!
//! Every system call of the process that writes to a file at a position or brings a file to the disk, or, as the
//! test wants it, that reads from one or lists a directory, is announced to the test (seccomp's user notification)
//! and goes on when the test says so. Until then the thread that made it sleeps in it, as it would in front of a
//! disk. Sockets are left alone.
//!
//! A filter of system calls belongs to the thread that sets it and to all that it starts. So a thread is made that
//! sets it and starts the process; whoever answers has none. Where the system refuses the filter, the test fails.
//!
//! Not here: what a disk does with the bytes. Each call is made as the process wanted it, only later.

#![expect(
    unsafe_code,
    reason = "no safe interface to seccomp; each call is passed memory that is ours and lives on"
)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::common::{DEADLINE, Running};

/// What waits for a disk that is slow to write.
const WRITES: &[libc::c_long] = &[
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
];
/// What waits for one that is slow to read.
const READS: &[libc::c_long] = &[libc::SYS_pread64];
/// What waits for one that is slow to tell what it holds.
const LISTS: &[libc::c_long] = &[libc::SYS_getdents64];

/// A call that came to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// The thread that made it.
    pub(crate) thread: u32,
    /// Bytes to be written or read, where it is from one buffer or into one.
    pub(crate) len: Option<u64>,
    /// How many came before it.
    pub(crate) number: usize,
}

/// What a call has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    AtOnce,
    After(Duration),
    /// Until the test lets all go.
    Held,
}

/// The disk of a process that was started on it.
pub(crate) struct SlowDisk(Arc<State>);

struct State {
    listener: OwnedFd,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    let_go: bool,
    /// The system's numbers of the calls that are held.
    held: Vec<u64>,
    /// Every call that ever came, with what it had to wait for.
    seen: Vec<(Access, Pace)>,
}

impl SlowDisk {
    /// Starts the process on a disk on which each write takes as long as `pace` says.
    pub(crate) fn start(
        command: Command,
        pace: impl FnMut(Access) -> Pace + Send + 'static,
    ) -> (Running, Self) {
        Self::start_on(WRITES, command, pace)
    }

    /// The same with each read from a file.
    pub(crate) fn start_to_read(
        command: Command,
        pace: impl FnMut(Access) -> Pace + Send + 'static,
    ) -> (Running, Self) {
        Self::start_on(READS, command, pace)
    }

    /// The same with each look into a directory.
    pub(crate) fn start_to_list(
        command: Command,
        pace: impl FnMut(Access) -> Pace + Send + 'static,
    ) -> (Running, Self) {
        Self::start_on(LISTS, command, pace)
    }

    fn start_on(
        slowed: &'static [libc::c_long],
        mut command: Command,
        pace: impl FnMut(Access) -> Pace + Send + 'static,
    ) -> (Running, Self) {
        // The filter stays with the thread, so the thread must not stay with the tests.
        let started = thread::spawn(move || {
            let listener = filter_this_thread(slowed);
            let state = State { listener, inner: Mutex::default(), changed: Condvar::new() };
            (state, Running::start(&mut command))
        });
        let (state, running) = started.join().expect("no panic, and a system with seccomp");
        let state = Arc::new(state);
        let answering = Arc::clone(&state);
        thread::spawn(move || answering.answer(pace));
        (running, Self(state))
    }

    /// Waits until so many calls are held, and tells by which threads.
    #[track_caller]
    pub(crate) fn wait_for_held(&self, count: usize) -> Vec<u32> {
        let deadline = Instant::now() + DEADLINE;
        let mut inner = self.0.lock();
        while inner.held.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let held = inner.held.len();
            assert!(!left.is_zero(), "only {held} calls of {count} are held");
            inner = self.0.changed.wait_timeout(inner, left).expect("no panic").0;
        }
        let held = inner.seen.iter().filter(|(_, pace)| *pace == Pace::Held);
        held.map(|(access, _)| access.thread).collect()
    }

    /// Lets go what is held, and holds nothing from now on.
    pub(crate) fn let_go(&self) {
        let mut inner = self.0.lock();
        inner.let_go = true;
        for id in std::mem::take(&mut inner.held) {
            self.0.go_on(id);
        }
    }

    /// Every call that came so far, with what it had to wait for.
    pub(crate) fn seen(&self) -> Vec<(Access, Pace)> {
        self.0.lock().seen.clone()
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that failed elsewhere still has to let its process go.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Answers as long as any thread is left that has the filter.
    fn answer(&self, mut pace: impl FnMut(Access) -> Pace) {
        let mut due: HashMap<u64, Instant> = HashMap::new();
        loop {
            let now = Instant::now();
            due.retain(|id, at| {
                let waits = *at > now;
                if !waits {
                    self.go_on(*id);
                }
                waits
            });
            match self.wait(due.values().min().map(|at| at.saturating_duration_since(now))) {
                Woken::Called => {}
                Woken::Due => continue,
                Woken::Over => return,
            }
            // It may have been killed meanwhile.
            let Some(call) = self.receive() else { continue };
            match self.judge(&call, &mut pace) {
                Pace::AtOnce => self.go_on(call.id),
                Pace::After(time) => _ = due.insert(call.id, Instant::now() + time),
                Pace::Held => {}
            }
        }
    }

    fn judge(&self, call: &libc::seccomp_notif, pace: &mut impl FnMut(Access) -> Pace) -> Pace {
        let mut inner = self.lock();
        let with_len = [libc::SYS_pwrite64, libc::SYS_pread64];
        let has_len = with_len.contains(&libc::c_long::from(call.data.nr));
        let len = has_len.then_some(call.data.args[2]);
        let access = Access { thread: call.pid, len, number: inner.seen.len() };
        let pace = match pace(access) {
            Pace::Held if inner.let_go => Pace::AtOnce,
            pace => pace,
        };
        inner.seen.push((access, pace));
        if pace == Pace::Held {
            inner.held.push(call.id);
        }
        self.changed.notify_all();
        pace
    }

    fn wait(&self, time: Option<Duration>) -> Woken {
        // Rounded up, or the last millisecond would be spent turning round.
        let millis = time.map_or(-1, |time| time.as_micros().div_ceil(1000) as libc::c_int);
        let mut fd =
            libc::pollfd { fd: self.listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, in a structure that is ours.
        let ready = unsafe { libc::poll(&raw mut fd, 1, millis) };
        match ready {
            1 if fd.revents & libc::POLLIN != 0 => Woken::Called,
            1 => Woken::Over,
            // Interrupted, or its time is up.
            _ => Woken::Due,
        }
    }

    fn receive(&self) -> Option<libc::seccomp_notif> {
        // SAFETY: numbers only, for which zero is a value; the system insists on zeros.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        let fd = self.listener.as_raw_fd();
        // SAFETY: the system fills the structure that this request is about.
        let done = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
        (done == 0).then_some(call)
    }

    /// The call is made now.
    fn go_on(&self, id: u64) {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let mut answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
        let fd = self.listener.as_raw_fd();
        // SAFETY: the system reads the structure that this request is about. It refuses if the thread was
        // killed meanwhile, and then nobody waits.
        unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    }
}

/// What the answering thread is woken for.
enum Woken {
    Called,
    Due,
    Over,
}

/// From now on the calling thread, and all that it starts, ask the listener before they make one of these calls.
fn filter_this_thread(slowed: &[libc::c_long]) -> OwnedFd {
    // No look at the architecture: what is started is a program for the same one as this.
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let number = statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0);
    let mut program = vec![number];
    for (call, at) in slowed.iter().zip(0_u8..) {
        let is_it = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        // Over those that are left, and the return that lets pass.
        let jt = slowed.len() as u8 - at;
        program.push(libc::sock_filter { code: is_it, jt, jf: 0, k: *call as u32 });
    }
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    program.push(statement(answer, libc::SECCOMP_RET_ALLOW));
    program.push(statement(answer, libc::SECCOMP_RET_USER_NOTIF));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };

    // SAFETY: no memory is passed. It is what lets those without privileges set a filter.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(promised, 0, "no_new_privs: {}", io::Error::last_os_error());
    let (set, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the system copies the program, which lives until then.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const filter) };
    let why = "this system does not let a test slow its disk down (seccomp user notification)";
    assert!(fd >= 0, "{why}: {}", io::Error::last_os_error());
    // SAFETY: it was opened for us just now.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}
