//! Other tools at the same work, each started the way it is fastest.
//!
//! The BitTorrent clients get a metainfo file with pieces of 1 MiB and a tracker of our own
//! (`benches/rivals/swarm.py`) and have distributed tables, local discovery, port mapping and
//! encryption off. Seeds are up, have checked their file and have announced before the clock starts; receivers
//! are timed from process start until they say that all is there and checked.

use std::cell::Cell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use minibit_benches::process::{Running, wait_for_port};
use minibit_benches::{Outcome, installed};

use crate::contender::{Figures, Setup, race};

const PIECE: u64 = 1 << 20;
/// Where our scripts are.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/rivals");

/// A tool that is installed.
pub(crate) enum Rival {
    Nginx,
    Libtorrent(Swarm),
    Rqbit(Swarm),
    Aria2(Swarm),
}

/// What BitTorrent needs.
pub(crate) struct Swarm {
    python: PathBuf,
    torrent: PathBuf,
    tracker: SocketAddr,
}

impl Rival {
    pub(crate) fn prepare(name: &str, setup: &Setup) -> Outcome<Self> {
        let needs = |programs: &[&str], version| {
            let missing = programs.iter().find(|program| installed(&[program], version).is_none());
            missing.map_or(Ok(()), |program| Err(format!("{program} is not installed")))
        };
        match name {
            "nginx" => {
                needs(&["nginx"], "-v")?;
                needs(&["curl"], "--version")?;
                Ok(Self::Nginx)
            }
            "libtorrent" => {
                let swarm = Swarm::new(setup)?;
                let import = Command::new(&swarm.python)
                    .args(["-c", "import libtorrent"])
                    .stderr(Stdio::null())
                    .status()?;
                if !import.success() {
                    return Err("python3 has no libtorrent (pip install libtorrent)".into());
                }
                Ok(Self::Libtorrent(swarm))
            }
            "rqbit" => {
                needs(&["rqbit"], "--version")?;
                Ok(Self::Rqbit(Swarm::new(setup)?))
            }
            _ => {
                needs(&["aria2c"], "--version")?;
                Ok(Self::Aria2(Swarm::new(setup)?))
            }
        }
    }

    pub(crate) fn run(&self, setup: &Setup) -> Outcome<Figures> {
        match self {
            Self::Nginx => nginx(setup),
            Self::Libtorrent(swarm) => libtorrent(setup, swarm),
            Self::Rqbit(swarm) => rqbit(setup, swarm),
            Self::Aria2(swarm) => aria2(setup, swarm),
        }
    }
}

impl Swarm {
    fn new(setup: &Setup) -> Outcome<Self> {
        // The interpreter itself: what stands for it in PATH may be a script that takes its time.
        let found = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output()
            .map_err(|_| "python3 is not installed")?;
        let python = PathBuf::from(String::from_utf8(found.stdout)?.trim());
        let tracker = free_addr()?;
        let torrent = setup.scratch.join(format!("{}.torrent", tracker.port()));
        let status = Command::new(&python)
            .arg(format!("{SCRIPTS}/swarm.py"))
            .arg("torrent")
            .arg(&setup.source)
            .args([PIECE.to_string(), tracker.port().to_string()])
            .arg(&torrent)
            .status()?;
        if status.success() {
            Ok(Self { python, torrent, tracker })
        } else {
            Err("swarm.py could not write a torrent".into())
        }
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(format!("{SCRIPTS}/{name}"));
        command
    }

    /// A tracker that is up, and the seed once it has announced.
    fn start(&self, seed: &mut Command) -> Outcome<(Running, Running)> {
        let port = self.tracker.port().to_string();
        let mut tracker = Running::start(self.script("swarm.py").args(["tracker", &port]))?;
        tracker.until(&mut [], |line| (line == "READY").then_some(()))?;
        let mut seed = Running::start(seed)?;
        tracker.until(&mut [&mut seed], |line| (line == "SEED").then_some(()))?;
        Ok((tracker, seed))
    }
}

fn directory(path: &Path) -> Outcome<&Path> {
    path.parent().ok_or_else(|| "no directory".into())
}

/// An address that nobody listens at.
fn free_addr() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Waits for a line with this in it.
fn says(what: &'static str) -> impl Fn(&mut Running, &mut [&mut Running]) -> Outcome<()> {
    move |one, beside| one.until(beside, |line| line.contains(what).then_some(()))
}

fn nginx(setup: &Setup) -> Outcome<Figures> {
    let dir = directory(&setup.source)?.to_str().ok_or("path")?;
    let addr = free_addr()?;
    let conf = setup.scratch.join("nginx.conf");
    let template = fs::read_to_string(format!("{SCRIPTS}/nginx.conf"))?;
    fs::write(&conf, template.replace("DIR", dir).replace("PORT", &addr.port().to_string()))?;
    let errors = setup.scratch.join("nginx.err");
    let mut server =
        Running::start(Command::new("nginx").arg("-c").arg(&conf).arg("-e").arg(errors))?;
    wait_for_port(addr)?;
    let start = |n| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-o"]).arg(setup.out(n).join("source.bin"));
        Running::start(curl.arg(format!("http://{addr}/source.bin")))
    };
    let done = |one: &mut Running, beside: &mut [&mut Running]| one.finish(beside).map(drop);
    let (figures, _) = race(setup, &mut server, start, done)?;
    Ok(Figures { seeder_copies: setup.receivers as f64, ..figures })
}

fn libtorrent(setup: &Setup, swarm: &Swarm) -> Outcome<Figures> {
    let peer = |dir: &Path| -> Outcome<Command> {
        let mut command = swarm.script("libtorrent_peer.py");
        command.arg(&swarm.torrent).arg(dir).arg(free_addr()?.to_string());
        Ok(command)
    };
    let (_tracker, mut seed) = swarm.start(&mut peer(directory(&setup.source)?)?)?;
    let start = |n| Running::start(&mut peer(&setup.out(n))?);
    let (figures, receivers) = race(setup, &mut seed, start, says("COMPLETE"))?;
    let lines = seed.stop()?;
    drop(receivers);
    let uploaded =
        lines.iter().find_map(|line| line.strip_prefix("UPLOADED ")?.parse::<f64>().ok());
    Ok(Figures { seeder_copies: uploaded.unwrap_or(f64::NAN) / setup.size as f64, ..figures })
}

fn rqbit(setup: &Setup, swarm: &Swarm) -> Outcome<Figures> {
    let peer = |dir: &Path, api: Option<SocketAddr>| -> Outcome<Command> {
        let mut command = Command::new("rqbit");
        // It keeps a session and a table in the user's directories.
        command.env("HOME", setup.scratch.path());
        command.args(["-v", "info", "--disable-dht", "--disable-lsd"]);
        command.args(["--disable-upnp-port-forward", "--listen-ip", "127.0.0.1"]);
        // On loopback it announces a port only if it is told to.
        let port = free_addr()?.port().to_string();
        command.args(["--listen-port", &port, "--announce-port", &port]);
        if let Some(api) = api {
            command.args(["--http-api-listen-addr", &api.to_string()]);
        }
        command.args(["download", "--overwrite"]);
        if api.is_none() {
            command.arg("--disable-http-api");
        }
        command.arg("-o").arg(dir).arg(&swarm.torrent).stderr(Stdio::null());
        Ok(command)
    };
    let api = free_addr()?;
    let seed = &mut peer(directory(&setup.source)?, Some(api))?;
    let (_tracker, mut seed) = swarm.start(seed)?;
    let start = |n| Running::start(&mut peer(&setup.out(n), None)?);
    let (figures, _) = race(setup, &mut seed, start, says("torrent finished"))?;
    let stats = format!("http://{api}/torrents/0/stats/v1");
    let stats = Command::new("curl").args(["-sS", &stats]).output();
    let stats: serde_json::Value =
        stats.ok().and_then(|run| serde_json::from_slice(&run.stdout).ok()).unwrap_or_default();
    let uploaded = stats["uploaded_bytes"].as_f64().unwrap_or(f64::NAN);
    Ok(Figures { seeder_copies: uploaded / setup.size as f64, ..figures })
}

fn aria2(setup: &Setup, swarm: &Swarm) -> Outcome<Figures> {
    // Peers are told apart by address: all of 127/8 is ours.
    let next = Cell::new(10);
    let peer = |dir: &Path| -> Outcome<Command> {
        let number = next.replace(next.get() + 1);
        let mut command = Command::new("aria2c");
        command.args(["--no-conf=true", "--enable-dht=false", "--enable-dht6=false"]);
        command.args(["--bt-enable-lpd=false", "--enable-peer-exchange=false"]);
        command.args(["--async-dns=false", "--summary-interval=0", "--console-log-level=warn"]);
        command.args(["--show-console-readout=false", "--enable-color=false", "--seed-ratio=0.0"]);
        command.args(["--file-allocation=none", "--disk-cache=64M", "--bt-max-peers=0"]);
        command.args(["--bt-request-peer-speed-limit=1024M", "--allow-overwrite=true"]);
        // Prints a line of three words.
        command.arg("--on-bt-download-complete=/bin/echo");
        command.arg(format!("--interface=127.0.0.{number}"));
        command.arg(format!("--listen-port={}", free_addr()?.port()));
        command.arg(format!("--dir={}", dir.display()));
        Ok(command)
    };
    let mut seed = peer(directory(&setup.source)?)?;
    let (_tracker, mut seed) =
        swarm.start(seed.arg("--bt-seed-unverified=true").arg(&swarm.torrent))?;
    let start = |n| Running::start(peer(&setup.out(n))?.arg(&swarm.torrent));
    let done = |one: &mut Running, beside: &mut [&mut Running]| {
        one.until(beside, |line| line.contains(" 1 /").then_some(()))
    };
    Ok(race(setup, &mut seed, start, done)?.0)
}
