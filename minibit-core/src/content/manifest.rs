//! The manifest: the few bytes that a whole share follows from.
//!
//! Invariant: a [`Manifest`] that exists is valid. Its names are legal and stay apart, its
//! files can be cut into pieces, its bytes fit the cap, and there is exactly one encoding of
//! it, so that equal shares have equal ids.
//!
//! Decoding trusts no count: room is made for what the bytes present can hold, and names are
//! looked at in place before they are copied.
//!
//! Not here: the hashes of pieces (`book`).

use std::sync::Arc;

use bincode::config::{Configuration, Fixint, LittleEndian};
use bincode::de::read::SliceReader;
use bincode::de::{BorrowDecode, Decode, DecoderImpl};

use super::hashing::empty_root;
use super::names::{Collision, NameError, check_collisions, check_component, check_path};
use crate::types::limits::{FILES_MAX, MANIFEST_LEN_MAX, PATH_DEPTH_MAX};
use crate::types::{Digest, Geometry, GeometryError, PieceSize, ShareId};

/// What every encoded manifest of this version begins with.
const MAGIC: [u8; 4] = *b"MBM1";
/// Bytes of the shortest file entry: no component, length, root.
const ENTRY_LEN_MIN: usize = 8 + 8 + 32;
/// Bytes of the shortest component: its length alone.
const COMPONENT_LEN_MIN: usize = 8;

type Config = Configuration<LittleEndian, Fixint>;
const CONFIG: Config = bincode::config::legacy();

/// One file of a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its path's components, from the share's directory on.
    pub path: Vec<String>,
    /// Its length in bytes.
    pub len: u64,
    /// Its plain BLAKE3 hash.
    pub root: Digest,
}

/// What a share is called, what files it has, and the root of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    name: String,
    single: bool,
    files: Vec<FileEntry>,
    geometry: Arc<Geometry>,
    id: ShareId,
}

/// Why something is not a manifest. Whoever made it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Its hash is not the share id: whoever sent it is at fault.
    #[error("the manifest is not the one of share {share}")]
    OtherShare {
        /// The share it was meant for.
        share: ShareId,
    },
    /// Over [`MANIFEST_LEN_MAX`].
    #[error("a manifest of {bytes} bytes; {MANIFEST_LEN_MAX} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not a manifest, or one of another version.
    #[error("not a manifest of version 1")]
    Magic,
    /// It ends early, or a value in it cannot be read.
    #[error("the manifest cannot be read: {what}")]
    Unreadable {
        /// Which value.
        what: &'static str,
    },
    /// A count larger than the bytes that follow, or over its cap.
    #[error("the manifest claims {count} {what}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many it claims.
        count: u64,
    },
    /// Bytes after its end.
    #[error("bytes follow the manifest's end")]
    Trailing,
    /// The same manifest has another encoding.
    #[error("the manifest is not in its canonical encoding")]
    NotCanonical,
    /// Lengths that cannot be a share.
    #[error("the manifest's sizes are not valid")]
    Geometry(#[from] GeometryError),
    /// The share's own name is not legal.
    #[error("the share's name is not legal")]
    ShareName(#[source] NameError),
    /// A file's path is not legal.
    #[error("the path of file {file} is not legal")]
    Path {
        /// Number of the file.
        file: usize,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// Two files are one place on some disk.
    #[error("two paths collide")]
    Collision(#[from] Collision),
    /// Said to be a single file, yet not exactly one of the share's name.
    #[error("a share of a single file must have exactly that file, by the share's name")]
    NotSingle,
    /// An empty file with the root of something else.
    #[error("file {file} is empty and has another hash than nothing")]
    EmptyRoot {
        /// Number of the file.
        file: usize,
    },
}

impl Manifest {
    /// A manifest of these files, in this order.
    ///
    /// `single`: the share is one file, whose path is the share's name; else the name is
    /// that of the directory which the paths are in.
    ///
    /// # Errors
    /// [`ManifestError`] if a name, a size or their number is not valid.
    pub fn new(
        name: String,
        single: bool,
        piece_size: PieceSize,
        files: Vec<FileEntry>,
    ) -> Result<Self, ManifestError> {
        Self::with_encoding(name, single, piece_size, files).map(|(manifest, _)| manifest)
    }

    /// See [`Manifest::new`]; with the encoding, which its id is the hash of.
    fn with_encoding(
        name: String,
        single: bool,
        piece_size: PieceSize,
        files: Vec<FileEntry>,
    ) -> Result<(Self, Vec<u8>), ManifestError> {
        check_component(&name).map_err(ManifestError::ShareName)?;
        for (file, entry) in files.iter().enumerate() {
            check_path(&entry.path).map_err(|source| ManifestError::Path { file, source })?;
            if entry.len == 0 && entry.root != empty_root() {
                return Err(ManifestError::EmptyRoot { file });
            }
        }
        let geometry = Arc::new(Geometry::new(piece_size, files.iter().map(|file| file.len))?);
        check_collisions(files.iter().map(|file| &*file.path))?;
        if single && !matches!(&*files, [only] if *only.path == [&*name]) {
            return Err(ManifestError::NotSingle);
        }
        let mut manifest = Self { name, single, files, geometry, id: ShareId([0; 32]) };
        let bytes = manifest.encode();
        if bytes.len() > MANIFEST_LEN_MAX {
            return Err(ManifestError::TooLarge { bytes: bytes.len() });
        }
        manifest.id = id_of(&bytes);
        Ok((manifest, bytes))
    }

    /// Reads a manifest that was sent for a share. Nothing is parsed before its hash is
    /// found to be the share's id.
    ///
    /// # Errors
    /// [`ManifestError`]: with `OtherShare` its sender is at fault, else the share's maker.
    pub fn decode_for(share: &ShareId, bytes: &[u8]) -> Result<Self, ManifestError> {
        check_len(bytes)?;
        if id_of(bytes) != *share {
            return Err(ManifestError::OtherShare { share: *share });
        }
        Self::decode(bytes)
    }

    /// Whether these bytes may be the first of an encoded manifest: what is not needs no memory.
    pub fn may_begin_with(bytes: &[u8]) -> bool {
        bytes.iter().zip(&MAGIC).all(|(byte, magic)| byte == magic)
    }

    /// Reads a manifest from its encoding.
    ///
    /// # Errors
    /// [`ManifestError`] if it is not the canonical encoding of a valid manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        check_len(bytes)?;
        let mut reader = Reader::new(bytes);
        if reader.value::<[u8; 4]>("magic").ok() != Some(MAGIC) {
            return Err(ManifestError::Magic);
        }
        let name = reader.text("name")?;
        check_component(name).map_err(ManifestError::ShareName)?;
        let single = reader.value("kind of share")?;
        let piece_size = PieceSize::new(reader.value("piece size")?)?;
        let count = reader.count("files", FILES_MAX, ENTRY_LEN_MIN)?;
        let mut files = Vec::with_capacity(count);
        for file in 0..count {
            files.push(reader.file(file)?);
        }
        let (manifest, canonical) =
            Self::with_encoding(name.to_owned(), single, piece_size, files)?;
        if canonical.len() < bytes.len() && bytes.starts_with(&canonical) {
            return Err(ManifestError::Trailing);
        }
        if canonical != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The encoding that is sent and hashed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, MAGIC);
        put(&mut out, &*self.name);
        put(&mut out, self.single);
        put(&mut out, self.piece_size().bytes());
        put(&mut out, self.files.len() as u64);
        for file in &self.files {
            put(&mut out, &file.path);
            put(&mut out, file.len);
            put(&mut out, file.root.0);
        }
        out
    }

    /// The share's id: the BLAKE3 hash of the encoding.
    pub fn share_id(&self) -> ShareId {
        self.id
    }

    /// Name of the share: of its file, or of the directory of its files.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the share is one file, named as the share, rather than a directory.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// Length of a full piece.
    pub fn piece_size(&self) -> PieceSize {
        self.geometry.piece_size()
    }

    /// The files, in the order in which their pieces are numbered.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// The cut into pieces.
    pub fn geometry(&self) -> &Arc<Geometry> {
        &self.geometry
    }
}

fn check_len(bytes: &[u8]) -> Result<(), ManifestError> {
    if bytes.len() > MANIFEST_LEN_MAX {
        return Err(ManifestError::TooLarge { bytes: bytes.len() });
    }
    Ok(())
}

fn id_of(encoded: &[u8]) -> ShareId {
    ShareId(*blake3::hash(encoded).as_bytes())
}

/// Appends a value's encoding.
fn put(out: &mut Vec<u8>, value: impl bincode::Encode) {
    bincode::encode_into_std_write(value, out, CONFIG)
        .expect("text and numbers always encode, and a Vec takes any bytes");
}

/// Reads values one after the other, and copies no text.
struct Reader<'a> {
    decoder: DecoderImpl<SliceReader<'a>, Config, ()>,
    /// Bytes of the whole input: no count of anything can be larger.
    len: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let reader = SliceReader::new(bytes);
        Self { decoder: DecoderImpl::new(reader, CONFIG, ()), len: bytes.len() }
    }

    /// A value of fixed size.
    fn value<T: Decode<()>>(&mut self, what: &'static str) -> Result<T, ManifestError> {
        T::decode(&mut self.decoder).map_err(|_| ManifestError::Unreadable { what })
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, ManifestError> {
        <&str>::borrow_decode(&mut self.decoder).map_err(|_| ManifestError::Unreadable { what })
    }

    /// How many items follow, none of them shorter than `item_len` bytes.
    fn count(
        &mut self,
        what: &'static str,
        max: usize,
        item_len: usize,
    ) -> Result<usize, ManifestError> {
        let count: u64 = self.value(what)?;
        let cap = max.min(self.len / item_len);
        usize::try_from(count)
            .ok()
            .filter(|fits| *fits <= cap)
            .ok_or(ManifestError::Count { what, count })
    }

    fn file(&mut self, file: usize) -> Result<FileEntry, ManifestError> {
        let path_error = |source| ManifestError::Path { file, source };
        let components = self.count("path components", PATH_DEPTH_MAX, COMPONENT_LEN_MIN)?;
        let mut path = Vec::with_capacity(components);
        for _ in 0..components {
            let component = self.text("path component")?;
            check_component(component).map_err(path_error)?;
            path.push(component.to_owned());
        }
        let len = self.value("file length")?;
        let root = Digest(self.value("file root")?);
        Ok(FileEntry { path, len, root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = |path: &[&str], len| FileEntry {
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            len,
            root: if len == 0 { empty_root() } else { Digest([7; 32]) },
        };
        let files = vec![file(&["a"], 0), file(&["b", "c"], 5)];
        Manifest::new("x".to_owned(), false, PieceSize::new(16384).unwrap(), files).unwrap()
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let mut want = b"MBM1".to_vec();
        want.extend(b"\x01\0\0\0\0\0\0\0x\0\0\x40\0\0");
        want.extend(b"\x02\0\0\0\0\0\0\0");
        want.extend(b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\0\0\0\0\0\0\0\0");
        want.extend(empty_root().0);
        want.extend(b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0b\x01\0\0\0\0\0\0\0c\x05\0\0\0\0\0\0\0");
        want.extend([7; 32]);
        assert_eq!(manifest().encode(), want);
        assert_eq!(manifest().share_id().0, *blake3::hash(&want).as_bytes());
    }

    #[test]
    fn a_manifest_reads_back_from_its_encoding() {
        let manifest = manifest();
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
        let share = manifest.share_id();
        assert_eq!(Manifest::decode_for(&share, &manifest.encode()), Ok(manifest.clone()));
        let share = ShareId([0; 32]);
        assert_eq!(
            Manifest::decode_for(&share, &manifest.encode()),
            Err(ManifestError::OtherShare { share })
        );
    }
}
