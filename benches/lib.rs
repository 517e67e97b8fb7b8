//! What the measuring programs share: flags, sources, processes, figures.
//!
//! These programs start real processes and look at them from outside, as a user could. Nothing
//! here reaches into the engine; where a peer of our own making is needed it speaks the
//! protocol over a socket ([`stranger`]). Linux only.

pub mod ballast;
pub mod line;
pub mod machine;
pub mod minibit;
pub mod process;
pub mod stranger;

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// Bytes in a MiB.
pub const MIB: f64 = 1024.0 * 1024.0;
/// Bytes in a GiB.
pub const GIB: f64 = 1024.0 * MIB;

/// What a program's step gives, or why it could not.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Flags of the form `--name value`, taken one by one.
#[derive(Debug)]
pub struct Flags(HashMap<String, String>);

impl Flags {
    /// Reads the arguments.
    ///
    /// # Errors
    /// An argument that is no flag, or a flag without a value.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut flags = HashMap::new();
        while let Some(arg) = args.next() {
            let name = arg.strip_prefix("--").ok_or_else(|| format!("what is {arg}?"))?;
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            flags.insert(name.to_owned(), value);
        }
        Ok(Self(flags))
    }

    /// A flag's value, if it was given.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// A flag's value, or this.
    ///
    /// # Errors
    /// A value that is none of the kind.
    pub fn get<T: FromStr>(&mut self, name: &str, otherwise: T) -> Outcome<T>
    where
        T::Err: Error + Send + Sync + 'static,
    {
        self.text(name).map_or(Ok(otherwise), |value| Ok(value.parse()?))
    }

    /// A flag's values, separated by commas, or these.
    ///
    /// # Errors
    /// A value that is none of the kind.
    pub fn list<T: FromStr>(&mut self, name: &str, otherwise: &str) -> Outcome<Vec<T>>
    where
        T::Err: Error + Send + Sync + 'static,
    {
        let text = self.text(name).unwrap_or_else(|| otherwise.to_owned());
        Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
    }

    /// To be called once every known flag was taken.
    ///
    /// # Errors
    /// A flag that nobody took.
    pub fn end(self) -> Outcome<()> {
        self.0.keys().next().map_or(Ok(()), |name| Err(format!("unknown flag --{name}").into()))
    }
}

/// A directory that is gone when the program ends, however it ends.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// In the directory that `--dir` names, or in the temporary one.
    ///
    /// # Errors
    /// Whatever making it ran into.
    pub fn new(flags: &mut Flags) -> Outcome<Self> {
        let parent = flags.text("dir").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = parent.join(format!("minibit-bench-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Bytes that do not compress or repeat: the output of BLAKE3 over a name.
///
/// # Errors
/// Whatever writing the file ran into.
pub fn make_source(path: &Path, size: u64) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let mut output = blake3::Hasher::new().update(name).finalize_xof();
    let mut file = File::create(path)?;
    let mut chunk = vec![0; (1 << 20).min(size as usize)];
    let mut left = size as usize;
    while left > 0 {
        let len = left.min(chunk.len());
        output.fill(&mut chunk[..len]);
        file.write_all(&chunk[..len])?;
        left -= len;
    }
    Ok(())
}

/// Reads a file once, so that its pages are in memory.
///
/// # Errors
/// Whatever reading it ran into.
pub fn warm(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 1 << 20];
    while file.read(&mut chunk)? > 0 {}
    Ok(())
}

/// Removes what is there, file or folder, if anything is.
///
/// # Errors
/// Whatever removing it ran into.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The first of these programs that can be started, as it says with `--version`.
pub fn installed<'a>(programs: &[&'a str], version: &str) -> Option<&'a str> {
    let runs = |name: &&&str| Command::new(name).arg(version).output().is_ok();
    programs.iter().find(runs).copied()
}

/// Median, and minimum and maximum in brackets.
pub fn spread(values: impl IntoIterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return "-".into() };
    // What is counted in hundreds needs no fractions.
    let digits = if *last >= 100.0 { 0 } else { 2 };
    let middle = values[values.len() / 2];
    format!("{middle:.digits$} ({first:.digits$}–{last:.digits$})")
}
