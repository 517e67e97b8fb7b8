//! Payload from a file to a socket, without passing through user space.
//!
//! Two ways lead there and look the same from outside: `sendfile`, which costs a quarter of
//! the sender's CPU and exists on Linux, and one vectored write of the frame's head and the
//! mapped payload, which exists everywhere. Both are compiled and tested on Linux.
//!
//! Invariant: what a call says was taken is exactly what the peer will receive, also when the
//! file ends early: the bytes before the end count first, the next call tells of the end.
//!
//! Not here: what the head says (`wire`), waiting for the socket (`engine`).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::mmap::Mapping;

/// Where a piece can be sent from.
#[derive(Clone, Debug)]
pub struct Served {
    /// The open file; keep it for as long as the piece is being sent.
    pub file: Arc<ServedFile>,
    /// The piece's first byte in that file.
    pub offset: u64,
}

/// How payload gets to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendMethod {
    /// The kernel moves pages from its cache to the socket.
    #[cfg(target_os = "linux")]
    Sendfile,
    /// One vectored write of the head and a read-only mapping of the file.
    Mapped,
}

impl Default for SendMethod {
    /// The cheapest this system has.
    fn default() -> Self {
        #[cfg(target_os = "linux")]
        return Self::Sendfile;
        #[cfg(not(target_os = "linux"))]
        return Self::Mapped;
    }
}

/// An open file of a share, from which payload is sent; also read and written through.
#[derive(Debug)]
pub struct ServedFile {
    file: File,
    /// What the share says the file's length is; the file itself may be shorter.
    len: u64,
    method: SendMethod,
    /// Made when the first payload is sent from it, if ever.
    mapping: OnceLock<Mapping>,
}

impl ServedFile {
    /// Serves the first `len` bytes of an open file.
    pub fn new(file: File, len: u64, method: SendMethod) -> Self {
        Self { file, len, method, mapping: OnceLock::new() }
    }

    /// Whether bytes could be sent at once, judged by the first and the last of them: false if
    /// the disk would have to be waited for. Where the system cannot tell, true.
    pub fn is_in_memory(&self, offset: u64, len: usize) -> bool {
        let last = offset + (len as u64).saturating_sub(1);
        [offset, last].iter().all(|at| !self.would_wait(*at))
    }

    #[cfg(target_os = "linux")]
    fn would_wait(&self, at: u64) -> bool {
        let mut byte = [0];
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        let read = rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(&mut byte)], at, flags);
        read == Err(Errno::AGAIN)
    }

    #[cfg(not(target_os = "linux"))]
    fn would_wait(&self, _at: u64) -> bool {
        false
    }

    /// Waits for the disk until bytes are in memory, for [`send`](Self::send) to find there.
    /// What cannot be read is left for `send` to report.
    pub fn bring_into_memory(&self, offset: u64, len: usize) {
        const STEP: usize = 64 * 1024;
        let mut scratch = [0; STEP];
        let mut at = offset;
        let end = offset + len as u64;
        while at < end {
            let step = STEP.min((end - at) as usize);
            match rustix::io::pread(&self.file, &mut scratch[..step], at) {
                Ok(0) | Err(_) => return,
                Ok(read) => at += read as u64,
            }
        }
    }

    /// Sends `head` and then `len` bytes of the file from `offset` on to a non-blocking
    /// stream socket, as far as the socket takes them. After a partial send the caller passes
    /// what is left: the rest of the head, or an empty one and the rest of the payload.
    ///
    /// Returns how many bytes of head and payload together were taken, at least 1 unless both
    /// are empty.
    ///
    /// # Errors
    /// `WouldBlock` if nothing was taken because the socket is full; `UnexpectedEof` if the
    /// file ends before `offset`; else what the socket or the file says. Nothing was taken
    /// then.
    pub fn send(
        &self,
        socket: BorrowedFd<'_>,
        head: &[u8],
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        match self.method {
            #[cfg(target_os = "linux")]
            SendMethod::Sendfile => self.send_by_kernel(socket, head, offset, len),
            SendMethod::Mapped => self.send_mapped(socket, head, offset, len),
        }
    }

    #[cfg(target_os = "linux")]
    fn send_by_kernel(
        &self,
        socket: BorrowedFd<'_>,
        head: &[u8],
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        let mut taken = 0;
        if !head.is_empty() {
            // MORE: the head must not travel in a packet of its own.
            let more = if len > 0 { SendFlags::MORE } else { SendFlags::empty() };
            taken = retry(|| rustix::net::send(socket, head, more | quietly()))?;
            if taken < head.len() || len == 0 {
                return Ok(taken);
            }
        }
        let mut at = offset;
        let payload = match retry(|| rustix::fs::sendfile(socket, &self.file, Some(&mut at), len)) {
            Ok(0) if len > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            answer => answer.map_err(io::Error::from),
        };
        match payload {
            Ok(more) => Ok(taken + more),
            // The head is on its way; the payload's trouble is the next call's answer.
            Err(_) if taken > 0 => Ok(taken),
            Err(error) => Err(error),
        }
    }

    fn send_mapped(
        &self,
        socket: BorrowedFd<'_>,
        head: &[u8],
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        if len == 0 {
            return Ok(retry(|| rustix::net::send(socket, head, quietly()))?);
        }
        let sent = self.mapping()?.lend(offset, len, |payload| {
            let parts = [IoSlice::new(head), payload];
            let parts = if head.is_empty() { &parts[1..] } else { &parts[..] };
            retry(|| {
                let mut control = SendAncillaryBuffer::default();
                rustix::net::sendmsg(socket, parts, &mut control, quietly())
            })
        });
        match sent {
            Some(Ok(taken)) => Ok(taken),
            // The pages are not there: the file was cut short under the mapping.
            Some(Err(Errno::FAULT)) | None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Err(errno)) => Err(errno.into()),
        }
    }

    fn mapping(&self) -> io::Result<&Mapping> {
        if let Some(mapping) = self.mapping.get() {
            return Ok(mapping);
        }
        let fresh = Mapping::new(&self.file, self.len)?;
        // Two threads may have made one each; the second is dropped.
        Ok(self.mapping.get_or_init(|| fresh))
    }

    /// What the share says the file's length is, in bytes; never 0 for a file with pieces.
    #[expect(clippy::len_without_is_empty, reason = "nothing is ever sent of an empty file")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The open file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Never a SIGPIPE, and never a wait even if the socket were a blocking one.
fn quietly() -> SendFlags {
    SendFlags::NOSIGNAL | SendFlags::DONTWAIT
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    const METHODS: &[SendMethod] = &[
        #[cfg(target_os = "linux")]
        SendMethod::Sendfile,
        SendMethod::Mapped,
    ];

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        sender.set_nonblocking(true).unwrap();
        (sender, listener.accept().unwrap().0)
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(7).fill(&mut bytes);
        bytes
    }

    /// Sends a frame the way a lane does: what the socket does not take is sent later.
    fn send_all(served: &ServedFile, socket: &TcpStream, head: &[u8], offset: u64, len: usize) {
        let mut done = 0;
        while done < head.len() + len {
            let rest = head.get(done..).unwrap_or_default();
            let sent = done.saturating_sub(head.len());
            match served.send(socket.as_fd(), rest, offset + sent as u64, len - sent) {
                Ok(taken) => done += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn head_and_payload_arrive_whole_however_often_the_socket_fills_up() {
        let bytes = noise(9_000_001);
        for &method in METHODS {
            let served = ServedFile::new(file(&bytes), bytes.len() as u64, method);
            let (sender, mut receiver) = sockets();
            let reading = std::thread::spawn(move || {
                let mut got = Vec::new();
                receiver.read_to_end(&mut got).unwrap();
                got
            });
            send_all(&served, &sender, b"head", 1, 9_000_000);
            send_all(&served, &sender, b"", 0, 1);
            send_all(&served, &sender, b"alone", 0, 0);
            drop(sender);
            let expected = [&b"head"[..], &bytes[1..], &bytes[..1], b"alone"].concat();
            assert!(reading.join().unwrap() == expected, "{method:?}");
        }
    }

    #[test]
    fn a_full_socket_takes_nothing_and_says_so() {
        let bytes = noise(1 << 20);
        for &method in METHODS {
            let served = ServedFile::new(file(&bytes), bytes.len() as u64, method);
            let (sender, receiver) = sockets();
            let full = loop {
                if let Err(error) = served.send(sender.as_fd(), b"head", 0, bytes.len()) {
                    break error;
                }
            };
            assert_eq!(full.kind(), io::ErrorKind::WouldBlock, "{method:?}");
            drop(receiver);
        }
    }

    #[test]
    fn a_file_cut_short_under_us_is_an_ordinary_error() {
        let bytes = noise(1 << 20);
        for &method in METHODS {
            let served = ServedFile::new(file(&bytes), bytes.len() as u64, method);
            let (sender, mut receiver) = sockets();
            send_all(&served, &sender, b"head", 0, 4096);
            served.file().set_len(0).unwrap();
            let mut answers = Vec::new();
            // The head may still be taken; then the end shows, every time.
            for head in [&b"head"[..], b"", b""] {
                answers.push(served.send(sender.as_fd(), head, 8192, 4096).map_err(|e| e.kind()));
            }
            assert!(matches!(answers[0], Ok(4) | Err(io::ErrorKind::UnexpectedEof)));
            assert_eq!(answers[1..], [Err(io::ErrorKind::UnexpectedEof); 2], "{method:?}");
            drop(sender);
            let mut got = Vec::new();
            receiver.read_to_end(&mut got).unwrap();
            let head_again = answers[0].map_or(0, |taken| taken);
            assert_eq!(got.len(), 4100 + head_again, "{method:?}");
        }
    }

    #[test]
    fn a_file_that_grows_after_it_was_opened_is_served_to_its_new_end() {
        for &method in METHODS {
            let served = ServedFile::new(file(b""), 10_000, method);
            let (sender, mut receiver) = sockets();
            let early = served.send(sender.as_fd(), b"", 0, 10_000).map_err(|e| e.kind());
            assert_eq!(early, Err(io::ErrorKind::UnexpectedEof), "{method:?}");
            served.file().write_all_at(&noise(10_000), 0).unwrap();
            send_all(&served, &sender, b"", 0, 10_000);
            drop(sender);
            let mut got = Vec::new();
            receiver.read_to_end(&mut got).unwrap();
            assert!(got == noise(10_000), "{method:?}");
        }
    }

    #[test]
    fn bytes_beyond_the_shares_length_are_not_sent_from_a_mapping() {
        let served = ServedFile::new(file(&noise(100)), 50, SendMethod::Mapped);
        let (sender, _receiver) = sockets();
        for (offset, len) in [(40, 11), (50, 1), (u64::MAX, 1)] {
            let answer = served.send(sender.as_fd(), b"", offset, len).map_err(|e| e.kind());
            assert_eq!(answer, Err(io::ErrorKind::UnexpectedEof), "{offset} {len}");
        }
    }
}
