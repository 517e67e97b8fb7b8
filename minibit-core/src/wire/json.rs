//! Strict reading of JSON text, for control messages from strangers.
//!
//! A general JSON library reports its refusals as text, recurses as deep as it is told to,
//! and hides how a number was written. Here each refusal is typed, so that a peer's fault can
//! be named, acted on and tested; nothing recurses, and nothing is allocated but the texts
//! and lists that a message really has. The tests hold it against `serde_json`.
//!
//! Use: [`scan`] walks the whole text once and proves it well-formed, no deeper than
//! [`JSON_DEPTH_MAX`]; a [`Reader`] then reads the fields that are wanted.
//!
//! Not here: what the fields mean.

use std::borrow::Cow;

use crate::types::limits::JSON_DEPTH_MAX;

use super::FieldFault;

/// Why a text is not one JSON object of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Not JSON, seen at this byte.
    NotJson { at: usize },
    /// JSON, but another value than an object.
    NotAnObject,
    /// A list or object nested too deep begins at this byte.
    TooDeep { at: usize },
    /// Something follows the object.
    TrailingBytes { at: usize },
}

/// Proves that `text` is exactly one well-formed object, and hands each field at its top level
/// to `field`, which must read or skip the value.
pub(super) fn scan<'a, E: From<Malformed>>(
    text: &'a str,
    mut field: impl FnMut(&str, &mut Reader<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = Reader::new(text);
    match reader.peek() {
        Some(b'{') => {}
        Some(b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
            return Err(Malformed::NotAnObject.into());
        }
        _ => return Err(reader.not_json().into()),
    }
    reader.at += 1;
    if reader.peek() == Some(b'}') {
        reader.at += 1;
    } else {
        loop {
            let key = reader.key()?;
            field(&key, &mut reader)?;
            match reader.peek() {
                Some(b',') => reader.at += 1,
                Some(b'}') => break reader.at += 1,
                _ => return Err(reader.not_json().into()),
            }
        }
    }
    match reader.peek() {
        None => Ok(()),
        Some(_) => Err(Malformed::TrailingBytes { at: reader.at }.into()),
    }
}

/// A place in a JSON text.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the start of the text.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte that is not white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn not_json(&self) -> Malformed {
        Malformed::NotJson { at: self.at }
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Malformed> {
        if self.peek() == Some(wanted) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.not_json())
        }
    }

    /// A key and the colon after it.
    fn key(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let raw = self.raw_text()?;
        let start = self.at;
        self.expect(b':')?;
        unescape(raw).ok_or(Malformed::NotJson { at: start })
    }

    /// Passes over one value within the top-level object, of any shape.
    pub(super) fn skip(&mut self) -> Result<(), Malformed> {
        // The containers opened within this value, each by the byte that closes it. The
        // top-level object is one more.
        let mut closers = [0u8; JSON_DEPTH_MAX - 1];
        let mut open = 0;
        loop {
            let first = self.peek();
            if let Some(opener @ (b'{' | b'[')) = first {
                let Some(closer) = closers.get_mut(open) else {
                    return Err(Malformed::TooDeep { at: self.at });
                };
                *closer = opener + 2; // '{' + 2 is '}', '[' + 2 is ']'
                let closer = *closer;
                self.at += 1;
                if self.peek() != Some(closer) {
                    open += 1;
                    if closer == b'}' {
                        self.key()?;
                    }
                    continue;
                }
                self.at += 1;
            } else {
                self.scalar(first)?;
            }
            // A value has ended; and with it, perhaps, the containers around it.
            loop {
                let Some(closer) = open.checked_sub(1).map(|last| closers[last]) else {
                    return Ok(());
                };
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if closer == b'}' {
                            self.key()?;
                        }
                        break;
                    }
                    Some(byte) if byte == closer => {
                        self.at += 1;
                        open -= 1;
                    }
                    _ => return Err(self.not_json()),
                }
            }
        }
    }

    /// Passes over a text, number, `true`, `false` or `null`.
    fn scalar(&mut self, first: Option<u8>) -> Result<(), Malformed> {
        match first {
            Some(b'"') => self.raw_text().map(drop),
            Some(b'-' | b'0'..=b'9') => self.raw_number().map(drop),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.not_json()),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Malformed> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.not_json())
        }
    }

    /// What is between the quotes of a text, escapes as written but well-formed.
    fn raw_text(&mut self) -> Result<&'a str, Malformed> {
        self.expect(b'"')?;
        let bytes = self.text.as_bytes();
        let start = self.at;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(0x20..) => self.at += 1,
                _ => return Err(self.not_json()),
            }
        }
        let raw = &self.text[start..self.at];
        self.at += 1;
        Ok(raw)
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        let rest = &self.text.as_bytes()[self.at..];
        let len = match rest.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if rest.len() >= 6 && rest[2..6].iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return Err(self.not_json()),
        };
        self.at += len;
        Ok(())
    }

    /// A number as it is written.
    fn raw_number(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        self.at += usize::from(bytes.get(self.at) == Some(&b'-'));
        // No leading zeros: a 0 stands alone before the point.
        if bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = bytes.get(self.at) {
            self.at += 1;
            self.at += usize::from(matches!(bytes.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// One or more digits.
    fn digits(&mut self) -> Result<(), Malformed> {
        let bytes = &self.text.as_bytes()[self.at..];
        let count = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(self.not_json()) } else { Ok(()) }
    }

    /// A whole number from 0 to `u64::MAX`, in digits alone.
    pub(super) fn number(&mut self) -> Result<u64, FieldFault> {
        let (Some(b'-' | b'0'..=b'9'), Ok(raw)) = (self.peek(), self.raw_number()) else {
            return Err(FieldFault::NotANumber);
        };
        let mut value = 0u64;
        for byte in raw.bytes() {
            let digit = match byte {
                b'0'..=b'9' => u64::from(byte - b'0'),
                b'-' => return Err(FieldFault::Negative),
                b'.' => return Err(FieldFault::Fraction),
                _ => return Err(FieldFault::Exponent),
            };
            let next = value.checked_mul(10).and_then(|tens| tens.checked_add(digit));
            value = next.ok_or(FieldFault::TooLarge { max: u64::MAX })?;
        }
        Ok(value)
    }

    /// A text of at most `max` bytes, whatever escapes it is written with.
    pub(super) fn text(&mut self, max: usize) -> Result<Cow<'a, str>, FieldFault> {
        let (Some(b'"'), Ok(raw)) = (self.peek(), self.raw_text()) else {
            return Err(FieldFault::NotText);
        };
        // An escape has at most six bytes for each one it stands for.
        if raw.len() / 6 > max {
            return Err(FieldFault::TooLong { max });
        }
        let text = unescape(raw).ok_or(FieldFault::NotText)?;
        if text.len() > max { Err(FieldFault::TooLong { max }) } else { Ok(text) }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self) -> Result<bool, FieldFault> {
        let value = self.peek() == Some(b't');
        let word = if value { "true" } else { "false" };
        self.word(word).map(|()| value).map_err(|_| FieldFault::NotABoolean)
    }

    /// A list; `item` reads each of its values.
    pub(super) fn list<E: From<FieldFault>>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'[').map_err(|_| FieldFault::NotAList)?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break self.at += 1,
                _ => return Err(FieldFault::NotAList.into()),
            }
        }
        Ok(())
    }

    /// A list of exactly `N` whole numbers.
    pub(super) fn numbers<const N: usize>(&mut self) -> Result<[u64; N], FieldFault> {
        let mut numbers = [0; N];
        let mut count = 0;
        self.list(|reader| {
            let slot = numbers.get_mut(count).ok_or(FieldFault::WrongCount { want: N })?;
            *slot = reader.number()?;
            count += 1;
            Ok::<_, FieldFault>(())
        })?;
        if count == N { Ok(numbers) } else { Err(FieldFault::WrongCount { want: N }) }
    }

    /// An object; `field` reads or skips the value of each key.
    pub(super) fn object<E: From<FieldFault>>(
        &mut self,
        mut field: impl FnMut(&str, &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{').map_err(|_| FieldFault::NotAnObject)?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.key().map_err(|_| FieldFault::NotAnObject)?;
            field(&key, self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break self.at += 1,
                _ => return Err(FieldFault::NotAnObject.into()),
            }
        }
        Ok(())
    }
}

/// The text that a well-formed raw text stands for; `None` if it has half a surrogate pair.
fn unescape(raw: &str) -> Option<Cow<'_, str>> {
    let Some((plain, mut rest)) = raw.split_once('\\') else { return Some(raw.into()) };
    let mut text = String::with_capacity(raw.len());
    text.push_str(plain);
    loop {
        let (unit, after) = escaped(rest)?;
        rest = after;
        let char = match unit {
            // The first half of a pair: the second must follow.
            0xd800..=0xdbff => {
                let (low, after) = escaped(rest.strip_prefix('\\')?)?;
                rest = after;
                char::decode_utf16([unit, low]).next()?.ok()?
            }
            _ => char::from_u32(u32::from(unit))?,
        };
        text.push(char);
        match rest.split_once('\\') {
            Some((plain, after)) => {
                text.push_str(plain);
                rest = after;
            }
            None => {
                text.push_str(rest);
                return Some(text.into());
            }
        }
    }
}

/// The UTF-16 unit of an escape whose backslash is taken, and what follows it.
fn escaped(rest: &str) -> Option<(u16, &str)> {
    let unit = match rest.as_bytes().first()? {
        b'u' => {
            let digits = rest.get(1..5)?;
            return Some((u16::from_str_radix(digits, 16).ok()?, &rest[5..]));
        }
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => 0x0a,
        b'r' => 0x0d,
        b't' => 0x09,
        other @ (b'"' | b'\\' | b'/') => u16::from(*other),
        _ => return None,
    };
    Some((unit, &rest[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn well_formed(text: &str) -> Result<(), Malformed> {
        scan(text, |_, reader| reader.skip())
    }

    /// Reads the text of field `t`.
    fn text_of(json: &str) -> Result<String, FieldFault> {
        let mut text = Err(FieldFault::Missing);
        Reader::new(json).object(|_, reader| {
            text = reader.text(usize::MAX).map(Cow::into_owned);
            Ok::<_, FieldFault>(())
        })?;
        text
    }

    fn nested(depth: usize) -> String {
        let lists = depth - 1;
        format!("{{\"a\":{}{}}}", "[".repeat(lists), "]".repeat(lists))
    }

    #[test]
    fn eight_levels_are_read_and_nine_are_refused() {
        assert_eq!(well_formed(&nested(8)), Ok(()));
        assert_eq!(well_formed(&nested(9)), Err(Malformed::TooDeep { at: 12 }));
        let objects = format!("{}1{}", "{\"a\":".repeat(8), "}".repeat(8));
        assert_eq!(well_formed(&objects), Ok(()));
        let objects = format!("{}1{}", "{\"a\":".repeat(9), "}".repeat(9));
        assert_eq!(well_formed(&objects), Err(Malformed::TooDeep { at: 40 }));
    }

    #[test]
    fn a_million_brackets_are_refused_at_the_ninth() {
        let bomb = format!("{{\"a\":{}", "[".repeat(1_000_000));
        assert_eq!(well_formed(&bomb), Err(Malformed::TooDeep { at: 12 }));
    }

    #[test]
    fn another_value_on_top_is_told_from_what_is_no_json() {
        for text in ["[]", "[{\"tipo\":\"VIVO\"}]", "\"a\"", "1", "-1", "true", "false", "null"] {
            assert_eq!(well_formed(text), Err(Malformed::NotAnObject), "{text}");
        }
        for text in ["", " ", "x", "'", "}", "\u{feff}{}", "\0"] {
            assert!(matches!(well_formed(text), Err(Malformed::NotJson { .. })), "{text}");
        }
    }

    #[test]
    fn bytes_after_the_object_are_refused_and_white_space_is_not() {
        assert_eq!(well_formed("{}x"), Err(Malformed::TrailingBytes { at: 2 }));
        assert_eq!(well_formed("{} {}"), Err(Malformed::TrailingBytes { at: 3 }));
        assert_eq!(well_formed("{}\0"), Err(Malformed::TrailingBytes { at: 2 }));
        assert_eq!(well_formed(" \t\r\n{ } \n"), Ok(()));
    }

    #[test]
    fn escapes_stand_for_what_they_say_and_half_a_pair_is_no_text() {
        let json = r#"{"t":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z"}"#;
        assert_eq!(text_of(json).unwrap(), "a\"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1f600}z");
        for half in [r#"{"t":"\ud83d"}"#, r#"{"t":"\ude00"}"#, r#"{"t":"\ud83d\ud83d"}"#] {
            assert_eq!(text_of(half), Err(FieldFault::NotText), "{half}");
        }
    }

    /// JSON texts: mostly well-formed, some with a byte changed, dropped or added.
    fn json_like() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|value| value.to_string()),
            any::<i64>().prop_map(|value| value.to_string()),
            "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            Just(r#""\u00e9\n\/""#.to_owned()),
        ];
        let value = leaf.prop_recursive(5, 30, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[{}]", items.join(", "))),
                prop::collection::vec(("[a-z]{1,3}", inner), 0..4).prop_map(|fields| {
                    let fields: Vec<_> =
                        fields.iter().map(|(key, value)| format!("\"{key}\" :{value}")).collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        });
        let object = prop::collection::vec(("[a-z]{1,3}", value), 0..4).prop_map(|fields| {
            let fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", fields.join(","))
        });
        let change = prop_oneof![
            3 => Just(None),
            2 => (any::<prop::sample::Index>(), "[\\[\\]{}\",:\\\\0-9a-z.eE+ -]{0,2}").prop_map(Some)
        ];
        (object, change).prop_map(|(mut text, change)| {
            if let Some((at, with)) = change {
                let mut at = at.index(text.len());
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
                text.replace_range(at..end, &with);
            }
            text
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn what_serde_json_takes_for_an_object_is_taken_and_nothing_else(text in json_like()) {
            // Only its shape: `serde_json` refuses values such as 1e999, we leave them unread.
            let judge = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok()
                && text.trim_start().starts_with('{');
            prop_assert_eq!(well_formed(&text).is_ok(), judge, "{}", text);
        }

        #[test]
        fn a_text_reads_as_serde_json_reads_it(text: String, inserted in "(\\\\[nrtu/\"][0-9a-fA-F]{0,4}){0,2}") {
            let mut json = serde_json::to_string(&text).unwrap();
            json.insert_str(1, &inserted);
            let judge = serde_json::from_str::<String>(&json).ok();
            prop_assert_eq!(text_of(&format!("{{\"t\":{json}}}")).ok(), judge);
        }

        #[test]
        fn no_text_whatever_panics(text in "[\\[\\]{}\",:\\\\u0-9.eE+ -]{0,60}") {
            let _ = well_formed(&text);
            let _ = Reader::new(&text).numbers::<3>();
            let _ = Reader::new(&text).object(|_, reader| reader.text(9).map(drop));
            let _ = Reader::new(&text).list(|reader| reader.boolean().map(drop));
        }
    }
}
