//! Every row about tickets, manifests and names that must be refused, and what must not be.

use minibit_core::content::{
    FileEntry, Manifest, ManifestError, NameError, check_component, check_path, empty_root,
};
use minibit_core::types::{Digest, GeometryError, PieceSize, limits};

/// A manifest as raw numbers and texts, so that it can say what no [`Manifest`] may.
#[derive(Clone)]
struct Raw {
    magic: [u8; 4],
    name: Vec<u8>,
    single: u8,
    piece_size: u32,
    /// Overrides the number of files.
    count: Option<u64>,
    files: Vec<RawFile>,
    trailing: Vec<u8>,
}

#[derive(Clone)]
struct RawFile {
    /// Overrides the number of components.
    count: Option<u64>,
    path: Vec<Vec<u8>>,
    len: u64,
    root: [u8; 32],
}

fn file(path: &str, len: u64) -> RawFile {
    let root = if len == 0 { empty_root().0 } else { [7; 32] };
    let path = path.split('/').map(|part| part.as_bytes().to_vec()).collect();
    RawFile { count: None, path, len, root }
}

/// A valid manifest of a directory with these files.
fn directory(files: Vec<RawFile>) -> Raw {
    Raw {
        magic: *b"MBM1",
        name: b"dir".to_vec(),
        single: 0,
        piece_size: 16384,
        count: None,
        files,
        trailing: Vec::new(),
    }
}

impl Raw {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        put_text(&mut out, &self.name);
        out.push(self.single);
        out.extend(self.piece_size.to_le_bytes());
        out.extend(self.count.unwrap_or(self.files.len() as u64).to_le_bytes());
        for file in &self.files {
            out.extend(file.count.unwrap_or(file.path.len() as u64).to_le_bytes());
            file.path.iter().for_each(|part| put_text(&mut out, part));
            out.extend(file.len.to_le_bytes());
            out.extend(file.root);
        }
        out.extend(&self.trailing);
        out
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn raw(change: impl FnOnce(&mut Raw)) -> Vec<u8> {
    let mut raw = directory(vec![file("a", 0), file("b/c", 5)]);
    change(&mut raw);
    raw.encode()
}

fn name_error(file: usize, source: NameError) -> ManifestError {
    ManifestError::Path { file, source }
}

#[test]
fn a_valid_manifest_and_a_file_of_no_bytes_are_accepted() {
    let manifest = Manifest::decode(&raw(|_| {})).unwrap();
    assert_eq!(manifest.geometry().total_len(), 5);
    let single = raw(|raw| (raw.single, raw.files) = (1, vec![file("dir", 0)]));
    assert!(Manifest::decode(&single).unwrap().is_single());
}

#[test]
fn each_bad_manifest_is_refused_with_its_own_reason() {
    use ManifestError as E;
    let not_utf8 = vec![b'a', 0xff];
    let count = |what, count| E::Count { what, count };
    let piece_size = |bytes| E::Geometry(GeometryError::PieceSize { bytes });
    let cases: Vec<(&str, Vec<u8>, ManifestError)> = vec![
        ("nothing", vec![], E::Magic),
        ("half a magic", b"MBM".to_vec(), E::Magic),
        ("another version", raw(|raw| raw.magic = *b"MBM2"), E::Magic),
        ("magic alone", b"MBM1".to_vec(), E::Unreadable { what: "name" }),
        (
            "over 32 MiB",
            vec![0; limits::MANIFEST_LEN_MAX + 1],
            E::TooLarge { bytes: (32 << 20) + 1 },
        ),
        ("a trailing byte", raw(|raw| raw.trailing = vec![0]), E::Trailing),
        ("a bool of 2", raw(|raw| raw.single = 2), E::Unreadable { what: "kind of share" }),
        ("piece size 0", raw(|raw| raw.piece_size = 0), piece_size(0)),
        ("not a power of two", raw(|raw| raw.piece_size = 16385), piece_size(16385)),
        ("under 16 KiB", raw(|raw| raw.piece_size = 8192), piece_size(8192)),
        ("over 16 MiB", raw(|raw| raw.piece_size = 1 << 25), piece_size(1 << 25)),
        ("no files", raw(|raw| raw.files.clear()), GeometryError::NoFiles.into()),
        ("more files than bytes", raw(|raw| raw.count = Some(99_999)), count("files", 99_999)),
        ("u64::MAX files", raw(|raw| raw.count = Some(u64::MAX)), count("files", u64::MAX)),
        (
            "a file less than said",
            raw(|raw| raw.count = Some(3)),
            E::Unreadable { what: "path components" },
        ),
        ("a file more than said", raw(|raw| raw.count = Some(1)), E::Trailing),
        (
            "2^60 components",
            raw(|raw| raw.files[1].count = Some(1 << 60)),
            count("path components", 1 << 60),
        ),
        (
            "33 components",
            raw(|raw| raw.files[1] = file(&["d"; 33].join("/"), 5)),
            count("path components", 33),
        ),
        ("no component", raw(|raw| raw.files[1].path.clear()), name_error(1, NameError::Empty)),
        (
            "sizes that overflow",
            raw(|raw| raw.files[1].len = u64::MAX),
            GeometryError::TooLong.into(),
        ),
        (
            "sizes that overflow together",
            raw(|raw| raw.files = vec![file("a", 1 << 63), file("b", 1 << 63)]),
            GeometryError::TooLong.into(),
        ),
        (
            "over 16 TiB",
            raw(|raw| (raw.piece_size, raw.files[1].len) = (1 << 24, (16 << 40) + 1)),
            GeometryError::TooLong.into(),
        ),
        (
            "over a million pieces",
            raw(|raw| raw.files[1].len = (1 << 20) * 16384 + 1),
            GeometryError::TooManyPieces.into(),
        ),
        ("no share name", raw(|raw| raw.name.clear()), E::ShareName(NameError::Empty)),
        (
            "a share name that climbs",
            raw(|raw| raw.name = b"..".to_vec()),
            E::ShareName(NameError::Dots),
        ),
        (
            "a share name that is a path",
            raw(|raw| raw.name = b"a/b".to_vec()),
            E::ShareName(NameError::Separator('/')),
        ),
        (
            "a share name not UTF-8",
            raw(|raw| raw.name = not_utf8.clone()),
            E::Unreadable { what: "name" },
        ),
        (
            "a path not UTF-8",
            raw(|raw| raw.files[0].path = vec![not_utf8.clone()]),
            E::Unreadable { what: "path component" },
        ),
        (
            "a path over 1,024 bytes",
            raw(|raw| raw.files[1] = file(&["d".repeat(255).as_str(); 5].join("/"), 5)),
            name_error(1, NameError::PathTooLong { bytes: 1279 }),
        ),
        ("single, two files", raw(|raw| raw.single = 1), E::NotSingle),
        (
            "single, another name",
            raw(|raw| (raw.single, raw.files) = (1, vec![file("other", 5)])),
            E::NotSingle,
        ),
        (
            "single, in a directory",
            raw(|raw| (raw.single, raw.files) = (1, vec![file("dir/dir", 5)])),
            E::NotSingle,
        ),
        (
            "an empty file with a hash of something",
            raw(|raw| raw.files[0].root = [7; 32]),
            E::EmptyRoot { file: 0 },
        ),
    ];
    for (case, bytes, want) in cases {
        assert_eq!(Manifest::decode(&bytes), Err(want), "{case}");
    }
}

#[test]
fn a_manifest_cut_anywhere_is_refused() {
    let whole = raw(|_| {});
    for len in 0..whole.len() {
        assert!(Manifest::decode(&whole[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn a_manifest_with_one_byte_changed_is_refused_or_is_another_manifest() {
    let whole = raw(|_| {});
    let original = Manifest::decode(&whole).unwrap();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(other) = Manifest::decode(&bytes) {
                assert_eq!(other.encode(), bytes, "byte {at}, bit {bit}");
                assert_ne!(other.share_id(), original.share_id());
            }
        }
    }
}

#[test]
fn a_manifest_whose_paths_collide_is_refused() {
    for paths in [["A", "a"], ["p", "p/q"], ["é", "e\u{301}"], ["x/y", "x/y"], ["D/x", "d/y"]] {
        for paths in [paths, [paths[1], paths[0]]] {
            let bytes = directory(paths.map(|path| file(path, 1)).to_vec()).encode();
            let error = Manifest::decode(&bytes).unwrap_err();
            assert!(matches!(error, ManifestError::Collision(_)), "{paths:?}: {error:?}");
        }
    }
}

#[test]
fn each_bad_name_is_refused_with_its_own_reason() {
    use NameError as E;
    let long = "x".repeat(256);
    let cases = [
        ("", E::Empty),
        (".", E::Dots),
        ("..", E::Dots),
        ("a/b", E::Separator('/')),
        ("/etc", E::Separator('/')),
        ("a/", E::Separator('/')),
        ("a\\b", E::Separator('\\')),
        ("\\\\host\\share", E::Separator('\\')),
        ("C:", E::Forbidden(':')),
        ("C:\\x", E::Forbidden(':')),
        ("a:stream", E::Forbidden(':')),
        ("a<b", E::Forbidden('<')),
        ("a>b", E::Forbidden('>')),
        ("a\"b", E::Forbidden('"')),
        ("a|b", E::Forbidden('|')),
        ("what?", E::Forbidden('?')),
        ("*.mp4", E::Forbidden('*')),
        ("a\0b", E::Control('\0')),
        ("a\nb", E::Control('\n')),
        ("a\rb", E::Control('\r')),
        ("a\tb", E::Control('\t')),
        ("\u{1b}[2J", E::Control('\u{1b}')),
        ("a\u{7f}", E::Control('\u{7f}')),
        ("a\u{80}", E::Control('\u{80}')),
        ("a\u{9b}31m", E::Control('\u{9b}')),
        ("a\u{202e}4pm", E::Invisible('\u{202e}')),
        ("a\u{2066}b", E::Invisible('\u{2066}')),
        ("a\u{61c}b", E::Invisible('\u{61c}')),
        ("a\u{200e}", E::Invisible('\u{200e}')),
        ("a\u{200b}", E::Invisible('\u{200b}')),
        ("a\u{200d}", E::Invisible('\u{200d}')),
        ("a\u{2060}", E::Invisible('\u{2060}')),
        ("\u{feff}a", E::Invisible('\u{feff}')),
        ("a\u{ad}b", E::Invisible('\u{ad}')),
        ("a\u{2028}b", E::Invisible('\u{2028}')),
        ("a\u{3164}", E::Invisible('\u{3164}')),
        ("a\u{e0041}", E::Invisible('\u{e0041}')),
        ("\u{fe0f}", E::Invisible('\u{fe0f}')),
        ("CON", E::Device("CON".into())),
        ("con", E::Device("con".into())),
        ("nul.txt", E::Device("nul.txt".into())),
        ("Nul.tar.gz", E::Device("Nul.tar.gz".into())),
        ("aux .c", E::Device("aux .c".into())),
        ("PRN", E::Device("PRN".into())),
        ("COM1", E::Device("COM1".into())),
        ("com9.log", E::Device("com9.log".into())),
        ("LPT¹", E::Device("LPT¹".into())),
        ("COM³.x", E::Device("COM³.x".into())),
        ("conin$", E::Device("conin$".into())),
        ("CONOUT$", E::Device("CONOUT$".into())),
        ("a.", E::Ending),
        ("a ", E::Ending),
        ("...", E::Ending),
        (" ", E::Ending),
        (&long, E::TooLong { bytes: 256 }),
    ];
    for (name, want) in cases {
        assert_eq!(check_component(name), Err(want.clone()), "{name:?}");
        // In a manifest: as the share's name, and anywhere in a path.
        assert_eq!(
            Manifest::decode(&raw(|raw| raw.name = name.into())),
            Err(ManifestError::ShareName(want.clone())),
            "{name:?}"
        );
        for at in 0..3 {
            let mut path = vec![b"d".to_vec(); 3];
            path[at] = name.into();
            let bytes = raw(|raw| raw.files[1].path = path);
            assert_eq!(Manifest::decode(&bytes), Err(name_error(1, want.clone())), "{name:?}");
        }
    }
    assert_eq!(check_path::<&str>(&[]), Err(E::Empty));
    assert_eq!(check_path(&["d"; 33]), Err(E::TooDeep { components: 33 }));
    for path in ["..", "a/../b", ".", "a//b", "a/", "/a", "./a", "C:/a"] {
        let parts: Vec<&str> = path.split('/').collect();
        assert!(check_path(&parts).is_err(), "{path}");
    }
}

#[test]
fn unusual_names_that_are_legal_are_accepted() {
    let long = ["x".repeat(255), "é".repeat(127), "🎬".repeat(63)];
    let names = [
        "a b",
        " leading",
        "-rf",
        "--help",
        "~",
        "~root",
        "$HOME",
        "`id`",
        "%s",
        "#1",
        "a'b",
        "a;b&c",
        ".hidden",
        "..a",
        "a..b",
        "....x",
        "🎬",
        "❤\u{fe0f}.mp4",
        "🇵🇹",
        "سلام",
        "עברית",
        "日本語",
        "e\u{301}",
        "É",
        "ﬁ",
        "ｆｕｌｌ",
        "CONSOLE",
        "COM",
        "COM0",
        "COM10",
        "LPT",
        "nullable.txt",
        "xCON",
        "con-1",
        "a.con",
        "COM¼",
        "\u{3000}x",
        "a\u{a0}b",
    ];
    for name in names.into_iter().chain(long.iter().map(String::as_str)) {
        assert_eq!(check_component(name), Ok(()), "{name:?}");
    }
    assert_eq!(check_path(&["d"; 32]), Ok(()));
    let longest = ["d".repeat(255), "d".repeat(255), "d".repeat(255), "d".repeat(256 - 1)];
    assert_eq!(check_path(&longest), Ok(()));
    assert_eq!(longest.join("/").len(), 1023);
}

#[test]
fn a_hundred_thousand_files_are_accepted_and_one_more_is_not() {
    let files = |count: usize| -> Vec<FileEntry> {
        let entry = |number: usize| FileEntry {
            path: vec![format!("Ordner é {}", number / 1000), format!("{number}.TXT")],
            len: 1,
            root: Digest([7; 32]),
        };
        (0..count).map(entry).collect()
    };
    let size = PieceSize::new(16384).unwrap();
    let manifest = Manifest::new("many".into(), false, size, files(100_000)).unwrap();
    assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    assert_eq!(
        Manifest::new("many".into(), false, size, files(100_001)),
        Err(GeometryError::TooManyFiles { files: 100_001 }.into())
    );
    let over = directory((0..100_001).map(|number| file(&number.to_string(), 1)).collect());
    assert_eq!(
        Manifest::decode(&over.encode()),
        Err(ManifestError::Count { what: "files", count: 100_001 })
    );
}
