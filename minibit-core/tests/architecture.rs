//! The house rules of `minibit-core/src`, checked instead of asked for.
//!
//! Cargo keeps direction between crates and nothing keeps it inside one, so this test reads
//! the sources: which module names which, where the clock, chance, sockets, files and `unsafe`
//! appear, and that each file opens by saying why it exists.
//!
//! [`check`] is a function over (path, text) pairs, so that the planted violations below
//! prove that it would notice. It reads tokens, not types: a rule broken through a re-export
//! is caught because the crate's root may not be named from inside at all.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// Top-level modules in flow order, each with what it may name besides itself. An entry
/// `a::b` opens only that part of `a`.
const IMPORTS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("wire", &["types"]),
    ("content", &["types"]),
    ("tracker", &["wire", "types"]),
    ("peer", &["wire", "types"]),
    ("swarm", &["peer::facts", "content", "types"]),
    ("trade", &["swarm", "peer", "content", "wire", "types"]),
    ("sim", &["trade", "tracker", "swarm", "peer", "content", "wire", "types"]),
    ("store", &["content", "types"]),
    (ENGINE, &["types", "wire", "content", "tracker", "peer", "swarm", "trade", "store"]),
];

/// The only module that may use tokio, the clock and chance of its own.
const ENGINE: &str = "engine";

/// Modules that touch the world on purpose; all others are values.
const SHELLS: &[&str] = &["store", ENGINE];

/// The only file with `unsafe`.
const UNSAFE_FILE: &str = "store/mmap.rs";

/// What a value may not name, as a part of a path and the reason that is printed.
const NOT_IN_VALUES: &[(&[&str], &str)] = &[
    (&["std", "fs"], "values have no files"),
    (&["std", "os"], "values have no operating system"),
    (&["std", "thread"], "values have no threads"),
    (&["std", "net", "TcpStream"], "values have no sockets"),
    (&["std", "net", "TcpListener"], "values have no sockets"),
    (&["std", "net", "UdpSocket"], "values have no sockets"),
    (&["rustix"], "values make no system calls"),
    (&["socket2"], "values have no sockets"),
    (&["memmap2"], "values have no files"),
];

/// What only the engine may name.
const ONLY_IN_ENGINE: &[(&[&str], &str)] = &[
    (&["tokio"], "tokio is the engine's"),
    (&["Instant", "now"], "time comes in as an argument"),
    (&["SystemTime", "now"], "time comes in as an argument"),
    (&["Rng", "new"], "chance comes in as an argument"),
];

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Checks sources given as paths under `src` (with `/`) and texts.
fn check(files: &[(String, String)]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in files {
        check_file(path, text, &mut |line, what| {
            found.push(Violation { file: path.clone(), line, what });
        });
    }
    found
}

fn check_file(path: &str, text: &str, report: &mut dyn FnMut(usize, String)) {
    if !text.trim_start_matches('\u{feff}').starts_with("//!") {
        report(1, "does not open with a `//!` header that says why it exists".into());
    }
    let home = Home::of(path);
    if home.top().is_some_and(|top| row(top).is_none()) {
        report(1, "lies in a module that has no row in the table of imports".into());
        return;
    }
    let tokens = lex(text);
    for scoped in scopes(&tokens, path) {
        let token = &tokens[scoped.at];
        if token.is("unsafe") && path != UNSAFE_FILE {
            report(token.line, format!("`unsafe` outside {UNSAFE_FILE}"));
        }
        // A path is read once, from its first word.
        let continues = scoped.at > 0 && tokens[scoped.at - 1].is("::");
        if continues || !token.word || !next_is(&tokens, scoped.at, "::") {
            continue;
        }
        for named in read_paths(&tokens, scoped.at) {
            if let Some(what) = home.judge(&named, &scoped) {
                report(token.line, what);
            }
        }
    }
}

/// Where a file stands in the tree of modules.
struct Home {
    /// `store/mmap.rs` is `["store", "mmap"]`, `store/mod.rs` is `["store"]`, `lib.rs` is empty.
    module: Vec<String>,
}

impl Home {
    fn of(path: &str) -> Self {
        let stem = path.strip_suffix(".rs").unwrap_or(path);
        let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod" || last == "lib") {
            module.pop();
        }
        Self { module }
    }

    fn top(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    /// What is wrong with naming this path from here, if anything is.
    fn judge(&self, named: &[String], scoped: &Scoped) -> Option<String> {
        let Some(top) = self.top() else {
            return None; // lib.rs declares and re-exports everything
        };
        if let Some(inside) = self.resolve(named, scoped.inline_depth) {
            return judge_import(top, &inside);
        }
        if scoped.in_test {
            return None; // tests may read files and measure time
        }
        let matches = |rule: &[&str]| named.windows(rule.len()).any(|part| rule.iter().eq(part));
        let forbidden = |rules: &[(&[&str], &str)]| {
            rules
                .iter()
                .find(|(rule, _)| matches(rule))
                .map(|(_, why)| format!("names `{}`: {why}", named.join("::")))
        };
        let values = (!SHELLS.contains(&top)).then(|| forbidden(NOT_IN_VALUES)).flatten();
        let others = (top != ENGINE)
            .then(|| forbidden(ONLY_IN_ENGINE).or_else(|| judge_chance(named)))
            .flatten();
        values.or(others)
    }

    /// A path from the crate's root, if this one leads into the crate by `crate` or `super`.
    fn resolve(&self, named: &[String], inline_depth: usize) -> Option<Vec<String>> {
        if named[0] == "crate" {
            return Some(named[1..].to_vec());
        }
        let rest = if named[0] == "self" { &named[1..] } else { named };
        let ups = rest.iter().take_while(|word| *word == "super").count();
        // Modules written inside the file are left first, and stay at home.
        let ups_from_file = ups.checked_sub(inline_depth).filter(|ups| *ups > 0)?;
        let kept = self.module.len().checked_sub(ups_from_file)?;
        Some(self.module[..kept].iter().chain(&rest[ups..]).cloned().collect())
    }
}

fn row(top: &str) -> Option<&'static [&'static str]> {
    IMPORTS.iter().find(|(module, _)| *module == top).map(|(_, allowed)| *allowed)
}

fn judge_import(top: &str, inside: &[String]) -> Option<String> {
    let target = inside.first().map_or("", String::as_str);
    if target == top {
        return None;
    }
    if row(target).is_none() {
        return Some(format!("names `{target}` through the crate's root; name its module"));
    }
    let allowed = row(top).unwrap_or_default();
    let open = allowed
        .iter()
        .any(|entry| entry.split("::").eq(inside.iter().take(entry.split("::").count())));
    (!open).then(|| format!("`{top}` may not import `{}` (it may: {allowed:?})", inside.join("::")))
}

/// `fastrand::u32(..)` and its like draw from a generator nobody seeded.
fn judge_chance(named: &[String]) -> Option<String> {
    (named[0] == "fastrand" && named.get(1).is_some_and(|word| word != "Rng"))
        .then(|| format!("names `{}`: chance comes in as an argument", named.join("::")))
}

// ---- reading Rust, as far as this needs it ----

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
    word: bool,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.text == text
    }
}

fn next_is(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at + 1).is_some_and(|token| token.is(text))
}

/// Words, `::` and single signs; comments, strings and characters are left out.
fn lex(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < chars.len() {
        let start = at;
        let rest = &chars[at..];
        at += match rest[0] {
            '/' if rest.get(1) == Some(&'/') => until_newline(rest),
            '/' if rest.get(1) == Some(&'*') => block_comment(rest),
            '"' => 1 + string_tail(&rest[1..]),
            '\'' => char_or_lifetime(rest),
            c if c.is_alphanumeric() || c == '_' => {
                let len = rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
                let word: String = rest[..len].iter().collect();
                match raw_string(&word, &rest[len..]) {
                    Some(tail) => len + tail,
                    None => {
                        tokens.push(Token { text: word, line, word: !c.is_numeric() });
                        len
                    }
                }
            }
            c if c.is_whitespace() => 1,
            ':' if rest.get(1) == Some(&':') => {
                tokens.push(Token { text: "::".into(), line, word: false });
                2
            }
            c => {
                tokens.push(Token { text: c.into(), line, word: false });
                1
            }
        };
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn until_newline(rest: &[char]) -> usize {
    rest.iter().take_while(|c| **c != '\n').count()
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of the rest of a string after its opening quote, closing quote included.
fn string_tail(rest: &[char]) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// If `word` is the prefix of a raw string, the length of what follows the prefix.
fn raw_string(word: &str, rest: &[char]) -> Option<usize> {
    if !matches!(word, "r" | "br" | "cr") {
        return None;
    }
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None; // a raw identifier, or just a variable called r
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = &rest[hashes + 1..];
    let end = body.windows(close.len()).position(|window| *window == close[..]);
    Some(hashes + 1 + end.map_or(body.len(), |end| end + close.len()))
}

fn char_or_lifetime(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, tail @ ..] => {
            3 + tail.iter().position(|c| *c == '\'').map_or(tail.len(), |end| end + 1)
        }
        ['\'', _, '\'', ..] => 3,
        _ => 1, // a lifetime: its name follows as a word
    }
}

/// A token with what surrounds it.
struct Scoped {
    at: usize,
    /// Under `#[cfg(test)]`, or in a file of tests.
    in_test: bool,
    /// How many modules written inside the file surround it.
    inline_depth: usize,
}

/// Every token that is not part of an attribute, with what surrounds it.
fn scopes(tokens: &[Token], path: &str) -> Vec<Scoped> {
    let file_is_test = path.split('/').any(|part| part == "tests" || part == "tests.rs");
    let mut blocks: Vec<(bool, bool)> = Vec::new(); // (is an inline module, is under cfg(test))
    let (mut test_item, mut module_item) = (false, false);
    let mut scoped = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].is("#") && (next_is(tokens, at, "[") || next_is(tokens, at, "!")) {
            let end = attribute_end(tokens, at);
            test_item |= is_cfg_test(&tokens[at..end]);
            at = end;
            continue;
        }
        let here = blocks.last().copied().unwrap_or_default();
        match tokens[at].text.as_str() {
            "mod" => module_item = true,
            ";" => (test_item, module_item) = (false, false),
            "{" => {
                blocks.push((module_item, here.1 || test_item));
                (test_item, module_item) = (false, false);
            }
            "}" => {
                blocks.pop();
            }
            _ => {}
        }
        scoped.push(Scoped {
            at,
            in_test: file_is_test || here.1 || test_item,
            inline_depth: blocks.iter().filter(|block| block.0).count(),
        });
        at += 1;
    }
    scoped
}

/// The index after the attribute that starts here.
fn attribute_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "[" => depth += 1,
            "]" if depth == 1 => return at + 1,
            "]" => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

fn is_cfg_test(attribute: &[Token]) -> bool {
    let has = |word: &str| attribute.iter().any(|token| token.is(word));
    has("cfg") && has("test") && !has("not")
}

/// All paths a use tree or a plain path names: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn read_paths(tokens: &[Token], start: usize) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    read_tree(tokens, start, &mut Vec::new(), &mut paths);
    paths
}

/// Reads one branch; returns the index after it.
fn read_tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let depth = prefix.len();
    while let Some(token) = tokens.get(at) {
        if token.is("{") {
            at += 1;
            while tokens.get(at).is_some_and(|token| !token.is("}")) {
                let before = at;
                at = read_tree(tokens, at, prefix, paths);
                at +=
                    usize::from(at == before || tokens.get(at).is_some_and(|token| token.is(",")));
            }
            prefix.truncate(depth);
            return at + 1;
        }
        if !token.word && !token.is("*") {
            break; // `::<` of a generic call ends the path
        }
        prefix.push(token.text.clone());
        at += 1;
        if !tokens.get(at).is_some_and(|token| token.is("::")) {
            break;
        }
        at += 1;
    }
    if prefix.len() > depth {
        paths.push(prefix.clone());
    }
    prefix.truncate(depth);
    if tokens.get(at).is_some_and(|token| token.is("as")) {
        at += 2;
    }
    at
}

// ---- the sources themselves ----

fn sources() -> io::Result<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, "", &mut files)?;
    Ok(files)
}

fn walk(dir: &Path, prefix: &str, into: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), into)?;
        } else if name.ends_with(".rs") {
            into.push((name, fs::read_to_string(entry.path())?));
        }
    }
    Ok(())
}

#[test]
fn the_sources_keep_the_house_rules() {
    let files = sources().unwrap();
    assert!(files.len() > IMPORTS.len(), "the sources were not found");
    let broken: Vec<String> = check(&files).iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{} broken rules:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn the_table_of_imports_names_every_module_and_has_no_ring() {
    let files = sources().unwrap();
    for (module, allowed) in IMPORTS {
        assert!(files.iter().any(|(path, _)| path.starts_with(module)), "no module {module}");
        // `swarm` reads a part of `peer`, which comes before it; so the order stays a flow.
        for entry in *allowed {
            let target = entry.split("::").next().unwrap();
            assert!(row(target).is_some(), "{module} imports {target}, which has no row");
        }
    }
    // Repeatedly take away what imports nothing that is left; a ring would remain.
    let mut left: Vec<_> = IMPORTS.to_vec();
    while !left.is_empty() {
        let names: Vec<&str> = left.iter().map(|(module, _)| *module).collect();
        let before = left.len();
        left.retain(|(_, allowed)| {
            allowed
                .iter()
                .any(|entry| names.contains(&entry.split("::").next().unwrap_or_default()))
        });
        assert!(left.len() < before, "a ring among {names:?}");
    }
}

// ---- planted violations: the checker must see each, and nothing else ----

/// What is found in one file that opens properly and then has this code.
fn planted(path: &str, code: &str) -> Vec<String> {
    let text = format!("//! Why.\n{code}\n");
    check(&[(path.to_owned(), text)]).into_iter().map(|found| found.what).collect()
}

#[test]
fn a_planted_violation_is_found() {
    let cases = [
        ("types/geometry.rs", "use crate::wire::Frame;", "`types` may not import `wire::Frame`"),
        ("wire/frame.rs", "fn f() { crate::peer::go(); }", "`wire` may not import `peer::go`"),
        ("content/mod.rs", "use crate::{types::A, store::B};", "import `store::B`"),
        ("swarm/choker.rs", "use crate::peer::Session;", "import `peer::Session`"),
        (
            "swarm/choker.rs",
            "use crate::peer::{facts::F, session::S};",
            "import `peer::session::S`",
        ),
        ("store/mod.rs", "use crate::swarm::*;", "import `swarm::*`"),
        ("wire/frame.rs", "use super::super::content::Manifest;", "import `content::Manifest`"),
        ("wire/mod.rs", "use super::content;", "import `content`"),
        ("wire/mod.rs", "mod a { use super::super::content::X; }", "import `content::X`"),
        (
            "peer/mod.rs",
            "#[cfg(test)] mod tests { use crate::engine::Node; }",
            "import `engine::Node`",
        ),
        ("peer/mod.rs", "use crate::Node;", "through the crate's root"),
        ("peer/mod.rs", "fn f() { let t = Instant::now(); }", "time comes in"),
        ("store/mod.rs", "fn f() { let t = std::time::Instant::now(); }", "time comes in"),
        ("store/mod.rs", "fn f() { let t = time::Instant::now(); }", "time comes in"),
        ("tracker/mod.rs", "fn f() { let t = SystemTime :: now(); }", "time comes in"),
        ("wire/codec.rs", "use tokio::io::AsyncRead;", "tokio is the engine's"),
        ("store/mod.rs", "fn f() { tokio::spawn(g()); }", "tokio is the engine's"),
        ("swarm/mod.rs", "fn f() -> u32 { fastrand::u32(..) }", "chance comes in"),
        ("swarm/mod.rs", "fn f() { let r = fastrand::Rng::new(); }", "chance comes in"),
        ("content/mod.rs", "use std::{fmt, fs::File};", "values have no files"),
        ("tracker/mod.rs", "use std::net::{IpAddr, TcpStream};", "values have no sockets"),
        ("peer/mod.rs", "fn f() { rustix::net::shutdown(); }", "values make no system calls"),
        ("engine/mod.rs", "fn f() { unsafe { g() } }", "`unsafe` outside store/mmap.rs"),
        ("attic/mod.rs", "", "no row in the table"),
    ];
    for (path, code, expected) in cases {
        let found = planted(path, code);
        assert_eq!(found.len(), 1, "{path}: {code}: {found:?}");
        assert!(found[0].contains(expected), "{path}: {code}: {found:?}");
    }
}

#[test]
fn a_file_without_a_header_is_found() {
    let files = [("wire/mod.rs".to_owned(), "// no\nfn f() {}\n".to_owned())];
    let found = check(&files);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].to_string(),
        "src/wire/mod.rs:1: does not open with a `//!` header that says why it exists"
    );
}

#[test]
fn a_violation_is_reported_with_its_line() {
    let files = [(
        "wire/mod.rs".to_owned(),
        "//! Why.\n/* two\nlines */\nuse crate::peer::X;\n".to_owned(),
    )];
    assert_eq!(check(&files)[0].line, 4);
}

#[test]
fn what_the_rules_allow_is_left_alone() {
    let cases = [
        ("lib.rs", "pub mod engine; pub use crate::engine::Node;"),
        ("wire/frame.rs", "use crate::types::{limits, PieceIndex}; use super::codec;"),
        ("swarm/state.rs", "use crate::{content::Manifest, peer::facts::Fact, types::PeerId};"),
        ("store/mmap.rs", "fn f() { unsafe { g() } } use std::fs::File;"),
        (
            "engine/node.rs",
            "use tokio::net::TcpStream; fn f() { Instant::now(); fastrand::u64(..); }",
        ),
        ("peer/mod.rs", "//! crate::engine::Node in a comment\nconst A: &str = \"crate::engine\";"),
        (
            "peer/mod.rs",
            "const A: &str = r#\"tokio::x \"crate::engine\" \"#; const B: char = '\"';",
        ),
        ("peer/mod.rs", "fn f<'a>(x: &'a str) -> char { '\\'' } // tokio::spawn"),
        (
            "content/mod.rs",
            "#[cfg(test)]\nmod tests { use super::*; fn f() { std::fs::read(x); Instant::now(); } }",
        ),
        ("swarm/mod.rs", "fn f(rng: &mut fastrand::Rng) { fastrand::Rng::with_seed(1); }"),
        ("wire/codec.rs", "use tokio_util::codec::Decoder;"),
        ("peer/session.rs", "mod inner { use super::facts; } use super::facts as other;"),
    ];
    for (path, code) in cases {
        assert_eq!(planted(path, code), Vec::<String>::new(), "{path}: {code}");
    }
}

#[test]
fn an_exemption_for_tests_ends_with_their_block() {
    let code = "#[cfg(test)] mod tests { fn f() { Instant::now(); } } fn g() { Instant::now(); }";
    assert_eq!(planted("peer/mod.rs", code).len(), 1);
    let code = "#[cfg(not(test))] mod real { fn f() { Instant::now(); } }";
    assert_eq!(planted("peer/mod.rs", code).len(), 1);
}
