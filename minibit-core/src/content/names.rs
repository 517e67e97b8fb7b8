//! Which names a share may give to files, and how to print what a stranger chose.
//!
//! A name that is legal here means the same file on every platform: it stays inside the
//! target directory, no device or stream is behind it, it shows what it is, and no two names
//! of a share become one file on a disk that ignores case or Unicode form.
//!
//! Names are refused, never repaired: a repaired name is another file than the ticket's.
//! So characters that only Windows forbids (`< > : " | ? *`) are refused everywhere: the one
//! who shares can rename once, and otherwise every receiver there would fail.
//! Invisible characters are refused even where a language uses them (zero-width joiners),
//! for two names that look the same are a trap. Emoji selectors (U+FE0E, U+FE0F) are legal,
//! and do not count when names are compared.
//!
//! Not here: what is on the disk already (links, files in the way); that is the store's.

use std::fmt::{self, Write};

use unicode_normalization::UnicodeNormalization;

use crate::types::limits::{NAME_COMPONENT_MAX, PATH_DEPTH_MAX, PATH_LEN_MAX};

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No name at all: `a//b`, `a/`, `/a`.
    #[error("an empty name")]
    Empty,
    /// `.` or `..`.
    #[error("a name of dots that leads elsewhere")]
    Dots,
    /// A slash or backslash within one component.
    #[error("{0:?} separates directories and cannot be in a name")]
    Separator(char),
    /// A character that some platform gives a meaning of its own.
    #[error("{0:?} is not allowed in file names on every platform")]
    Forbidden(char),
    /// NUL, newline, escape or any other control character.
    #[error("control character U+{:04X}", u32::from(*.0))]
    Control(char),
    /// It is not seen, or changes the direction of what is.
    #[error("invisible character U+{:04X}", u32::from(*.0))]
    Invisible(char),
    /// `CON`, `nul.txt`: a device on Windows.
    #[error("{} is a device on Windows", escape(.0))]
    Device(String),
    /// Windows drops a dot or space at the end.
    #[error("a name cannot end in a dot or space")]
    Ending,
    /// Over [`NAME_COMPONENT_MAX`] bytes.
    #[error("a name of {bytes} bytes; {NAME_COMPONENT_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Over [`PATH_LEN_MAX`] bytes with its separators.
    #[error("a path of {bytes} bytes; {PATH_LEN_MAX} are allowed")]
    PathTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Over [`PATH_DEPTH_MAX`] components.
    #[error("a path of {components} components; {PATH_DEPTH_MAX} are allowed")]
    TooDeep {
        /// How many it has.
        components: usize,
    },
}

/// Two paths of one share that are one place on some disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} and {} collide", escape(.first), escape(.second))]
pub struct Collision {
    /// One of the paths, with slashes.
    pub first: String,
    /// The other.
    pub second: String,
}

/// Checks one component of a path, or the name of a share.
///
/// # Errors
/// [`NameError`] with the first fault found.
pub fn check_component(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_COMPONENT_MAX {
        return Err(NameError::TooLong { bytes: name.len() });
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots);
    }
    name.chars().try_for_each(check_char)?;
    // A selector changes the character before it; alone it is nothing to see.
    if let Some(first) = name.chars().next().filter(|first| is_emoji_selector(*first)) {
        return Err(NameError::Invisible(first));
    }
    if name.ends_with(['.', ' ']) {
        return Err(NameError::Ending);
    }
    if is_device(name) {
        return Err(NameError::Device(name.to_owned()));
    }
    Ok(())
}

/// Checks a path given as its components.
///
/// # Errors
/// [`NameError`] with the first fault found.
pub fn check_path<S: AsRef<str>>(path: &[S]) -> Result<(), NameError> {
    if path.is_empty() {
        return Err(NameError::Empty);
    }
    if path.len() > PATH_DEPTH_MAX {
        return Err(NameError::TooDeep { components: path.len() });
    }
    path.iter().try_for_each(|component| check_component(component.as_ref()))?;
    let bytes = path.iter().map(|component| component.as_ref().len() + 1).sum::<usize>() - 1;
    if bytes > PATH_LEN_MAX {
        return Err(NameError::PathTooLong { bytes });
    }
    Ok(())
}

/// Checks that the paths of a share stay apart on every disk: none twice, none that differ
/// only by case or Unicode form (directories too), none both a file and a directory.
///
/// Takes time in the order of sorting them. The paths should have passed [`check_path`].
///
/// # Errors
/// [`Collision`] with the first two found.
pub fn check_collisions<'a>(
    paths: impl IntoIterator<Item = &'a [String]>,
) -> Result<(), Collision> {
    let mut keyed: Vec<(String, &[String])> =
        paths.into_iter().map(|path| (key(path), path)).collect();
    // The separator sorts before all that names may hold, so whatever shares a directory,
    // or is one place, ends up side by side.
    keyed.sort_unstable();
    for pair in keyed.windows(2) {
        let [(one_key, one), (other_key, other)] = pair else { continue };
        if one_place(one_key, one, other_key, other) {
            return Err(Collision { first: one.join("/"), second: other.join("/") });
        }
    }
    Ok(())
}

/// Prints a text that a stranger chose: nothing in it can steer a terminal, hide, or break
/// the line. Backslashes are doubled, so the original can be told.
pub fn escape(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// See [`escape`].
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                _ if character.is_control() || is_invisible(character) => {
                    write!(f, "{}", character.escape_unicode())?;
                }
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Splits the components of a folded path: no name may hold it.
const KEY_SEPARATOR: char = '\0';

fn check_char(character: char) -> Result<(), NameError> {
    match character {
        '/' | '\\' => Err(NameError::Separator(character)),
        '<' | '>' | ':' | '"' | '|' | '?' | '*' => Err(NameError::Forbidden(character)),
        _ if character.is_control() => Err(NameError::Control(character)),
        _ if is_invisible(character) => Err(NameError::Invisible(character)),
        _ => Ok(()),
    }
}

/// Characters without a shape of their own: zero-width, fillers, line breaks, tags, and
/// whatever changes the direction of the text around it.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0d}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether Windows takes the name for a device, whatever its extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end_matches(' ');
    let upper = stem.to_ascii_uppercase();
    if matches!(&*upper, "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let port = upper.strip_prefix("COM").or_else(|| upper.strip_prefix("LPT"));
    port.is_some_and(|number| {
        let mut characters = number.chars();
        matches!(characters.next(), Some('1'..='9' | '¹' | '²' | '³'))
            && characters.next().is_none()
    })
}

/// A path as a disk that ignores case and Unicode form sees it.
fn key(path: &[String]) -> String {
    let mut key = String::with_capacity(path.iter().map(|component| component.len() + 1).sum());
    for (number, component) in path.iter().enumerate() {
        if number > 0 {
            key.push(KEY_SEPARATOR);
        }
        fold(component, &mut key);
    }
    key
}

/// Appends a name without its case and form: decomposed, folded, decomposed again.
fn fold(name: &str, to: &mut String) {
    if name.is_ascii() {
        to.extend(name.chars().map(|character| character.to_ascii_lowercase()));
        return;
    }
    let folded = name.nfd().filter(|character| !is_emoji_selector(*character)).flat_map(fold_char);
    to.extend(folded.nfd());
}

/// Folds more than lower case alone: `ſ` and `s`, `ς` and `σ`, `ß` and `ss` are one.
fn fold_char(character: char) -> impl Iterator<Item = char> {
    // The dotless ı has I as its upper case, yet no disk takes it for i.
    let (own, upper) = if character == 'ı' { (Some('ı'), None) } else { (None, Some(character)) };
    own.into_iter()
        .chain(upper.into_iter().flat_map(char::to_uppercase).flat_map(char::to_lowercase))
}

fn is_emoji_selector(character: char) -> bool {
    matches!(character, '\u{fe0e}' | '\u{fe0f}')
}

/// Whether two paths, neighbours in order, are one place or lead through one.
fn one_place(one_key: &str, one: &[String], other_key: &str, other: &[String]) -> bool {
    let keys = one_key.split(KEY_SEPARATOR).zip(other_key.split(KEY_SEPARATOR));
    for ((one_key, other_key), (one, other)) in keys.zip(one.iter().zip(other)) {
        if one_key != other_key {
            return false;
        }
        if one != other {
            return true;
        }
    }
    // All components of the shorter are the longer's: twice the same, or a file that is a directory.
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> Vec<String> {
        text.split('/').map(str::to_owned).collect()
    }

    fn collide(paths: &[&str]) -> Result<(), Collision> {
        let paths: Vec<_> = paths.iter().copied().map(path).collect();
        check_collisions(paths.iter().map(|path| &**path))
    }

    #[test]
    fn paths_that_are_one_place_on_some_disk_collide() {
        for paths in [
            ["a", "a"],
            ["A", "a"],
            ["p", "p/q"],
            ["P", "p/q"],
            ["p/Q/r", "p/q"],
            ["d/x", "D/y"],
            ["d/e/x", "d/E/y"],
            ["é", "e\u{301}"],
            ["É", "e\u{301}"],
            ["straße", "STRASSE"],
            ["Σ", "ς"],
            ["ſ", "S"],
            ["\u{212a}", "k"],
            ["ﬀ", "FF"],
            ["❤\u{fe0f}", "❤"],
            ["\u{1f80}", "\u{1f88}"],
        ] {
            assert!(collide(&paths).is_err(), "{paths:?}");
            assert!(collide(&[paths[1], "between", "p!", paths[0]]).is_err(), "{paths:?}");
        }
    }

    #[test]
    fn paths_that_are_apart_everywhere_do_not_collide() {
        assert_eq!(
            collide(&["p/q", "p!", "p-q", "pq", "q/p", "p/r", "p/q2", "ı", "i", "a", "ａ"]),
            Ok(())
        );
        assert_eq!(collide(&[]), Ok(()));
    }

    #[test]
    fn a_collision_names_both_paths_and_prints_them_safely() {
        let collision = collide(&["x/A", "b", "x/a"]).unwrap_err();
        assert_eq!(collision.to_string(), "x/A and x/a collide");
        let collision = Collision { first: "\u{1b}[2J".to_owned(), second: "b".to_owned() };
        assert_eq!(collision.to_string(), "\\u{1b}[2J and b collide");
    }

    #[test]
    fn a_printed_text_cannot_steer_a_terminal_and_tells_the_original() {
        assert_eq!(escape("a\u{202e}b\n\u{85}\0").to_string(), "a\\u{202e}b\\u{a}\\u{85}\\u{0}");
        assert_eq!(escape("\\u{a}").to_string(), "\\\\u{a}");
        assert_eq!(escape("سلام é 🎬 ❤\u{fe0f} ~$(x)").to_string(), "سلام é 🎬 ❤\u{fe0f} ~$(x)");
    }

    /// Compares every two paths, component by component.
    fn naive_collision(paths: &[Vec<String>]) -> bool {
        let folded = |name: &String| {
            let mut to = String::new();
            fold(name, &mut to);
            to
        };
        let one_place = |one: &[String], other: &[String]| {
            let same = one.iter().zip(other).take_while(|(a, b)| folded(a) == folded(b)).count();
            same == one.len().min(other.len()) || one[..same] != other[..same]
        };
        let others = |at: usize| &paths[at + 1..];
        paths
            .iter()
            .enumerate()
            .any(|(at, one)| others(at).iter().any(|other| one_place(one, other)))
    }

    proptest! {
        #[test]
        fn neighbours_in_order_tell_all_collisions(
            paths in prop::collection::vec(
                prop::collection::vec("[abcd]|A|é|e\u{301}|a!|a-", 1..4), 0..7,
            ),
        ) {
            let found = check_collisions(paths.iter().map(|path| &**path)).is_err();
            prop_assert_eq!(found, naive_collision(&paths));
        }

        #[test]
        fn nothing_that_is_printed_steers_a_terminal(text: String) {
            let shown = escape(&text).to_string();
            prop_assert!(!shown.chars().any(|shown| shown.is_control() || is_invisible(shown)));
        }

        #[test]
        fn a_legal_name_is_printed_as_it_is_and_folds_to_something(
            name in r#"[^\pC/\\<>:"|?*]{1,40}"#,
        ) {
            prop_assume!(check_component(&name).is_ok());
            prop_assert_eq!(escape(&name).to_string(), name.clone());
            let mut folded = String::new();
            fold(&name, &mut folded);
            prop_assert!(!folded.is_empty() && !folded.contains(KEY_SEPARATOR));
        }
    }
}
