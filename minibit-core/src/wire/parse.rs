//! JSON to message.
//!
//! Two walks over the text: the first proves it well-formed and finds `tipo`, the second reads
//! the fields that this `tipo` has. So a malformed message is always reported as that, whatever
//! its fields, and an unknown `tipo` or extra field may carry anything.
//!
//! Invariant: `parse_message` of what `Message::encode` wrote is that message.

use std::net::IpAddr;

use data_encoding::BASE64;

use crate::types::{PageId, PeerId, ShareId, limits};

use super::frame::PREFIX_LEN;
use super::json::{Malformed, Reader, scan};
use super::message::{
    Destination, Holdings, LaneKey, Message, PeerAddr, RawBlock, RefuseReason, Register, Run,
};

/// Seconds between announces where a LISTA_PEERS does not say.
const INTERVAL_DEFAULT: u32 = 30;
/// Bytes of the longest text form of an IPv6 address.
const IP_TEXT_MAX: usize = 45;

/// A control frame whose body is not a message; its sender is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not UTF-8.
    #[error("not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// First byte that is not.
        at: usize,
    },
    /// Not JSON.
    #[error("not JSON at byte {at}")]
    NotJson {
        /// Where it was noticed.
        at: usize,
    },
    /// JSON, but a list, text, number or word instead of an object.
    #[error("the message is not a JSON object")]
    NotAnObject,
    /// Something follows the object.
    #[error("bytes after the message's end, from byte {at} on")]
    TrailingBytes {
        /// First byte after it.
        at: usize,
    },
    /// Nested deeper than [`limits::JSON_DEPTH_MAX`].
    #[error("nested deeper than {} at byte {at}", limits::JSON_DEPTH_MAX)]
    TooDeep {
        /// Where the level too many begins.
        at: usize,
    },
    /// No `tipo`.
    #[error("no `tipo`")]
    TipoMissing,
    /// `tipo` more than once.
    #[error("`tipo` twice")]
    TipoTwice,
    /// `tipo` is not a text.
    #[error("`tipo` is not a text")]
    TipoNotText,
    /// Longer than this `tipo` may be.
    #[error("{tipo} of {len} bytes where {max} are allowed")]
    TooLong {
        /// The `tipo`.
        tipo: &'static str,
        /// Bytes of JSON.
        len: usize,
        /// Bytes that are allowed.
        max: usize,
    },
    /// A field that this `tipo` has is not what it must be.
    #[error("`{field}` of {tipo} {fault}")]
    Field {
        /// The `tipo`.
        tipo: &'static str,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        fault: FieldFault,
    },
}

/// What is wrong with a field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldFault {
    /// Not there.
    #[error("is missing")]
    Missing,
    /// There more than once.
    #[error("is there twice")]
    Twice,
    /// There beside another that excludes it.
    #[error("excludes another field that is there")]
    Excluded,
    /// A negative number.
    #[error("is negative")]
    Negative,
    /// A number with a decimal point.
    #[error("has a decimal point")]
    Fraction,
    /// A number with an exponent.
    #[error("has an exponent")]
    Exponent,
    /// A whole number that is too large.
    #[error("is larger than {max}")]
    TooLarge {
        /// The largest that is allowed.
        max: u64,
    },
    /// Something else where a number must be, such as digits in quotes.
    #[error("is not a number")]
    NotANumber,
    /// Something else where a text must be, or a text with half a surrogate pair.
    #[error("is not a text")]
    NotText,
    /// Something else where `true` or `false` must be.
    #[error("is not true or false")]
    NotABoolean,
    /// Something else where a list must be.
    #[error("is not a list")]
    NotAList,
    /// Something else where an object must be.
    #[error("is not an object")]
    NotAnObject,
    /// A list of the wrong length.
    #[error("is not a list of {want}")]
    WrongCount {
        /// The length it must have.
        want: usize,
    },
    /// A list that is too long.
    #[error("has more than {max} entries")]
    TooMany {
        /// How many are allowed.
        max: usize,
    },
    /// A text that is too long.
    #[error("is longer than {max} bytes")]
    TooLong {
        /// How many bytes are allowed.
        max: usize,
    },
    /// Not lower-case hexadecimal of the right length.
    #[error("is not lower-case hexadecimal of the right length")]
    NotHex,
    /// Not base64 in its canonical form.
    #[error("is not base64")]
    NotBase64,
    /// Not an IP address.
    #[error("is not an IP address")]
    NotAnAddress,
    /// A word that this version does not have.
    #[error("is a word this version does not have")]
    UnknownWord,
}

/// [`MessageError::Field`] on its way up, before its `tipo` is put in. The innermost field
/// that has a name gives it.
struct FieldError {
    field: Option<&'static str>,
    fault: FieldFault,
}

impl From<Malformed> for MessageError {
    fn from(error: Malformed) -> Self {
        match error {
            Malformed::NotJson { at } => Self::NotJson { at },
            Malformed::NotAnObject => Self::NotAnObject,
            Malformed::TooDeep { at } => Self::TooDeep { at },
            Malformed::TrailingBytes { at } => Self::TrailingBytes { at },
        }
    }
}

impl From<FieldFault> for FieldError {
    fn from(fault: FieldFault) -> Self {
        Self { field: None, fault }
    }
}

/// Reads the JSON body of a control frame.
///
/// # Errors
/// [`MessageError`]; a `tipo` that this version does not have is no error but
/// [`Message::Unknown`].
pub fn parse_message(body: &[u8]) -> Result<Message, MessageError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| MessageError::NotUtf8 { at: error.valid_up_to() })?;
    let mut tipo = None;
    scan(text, |key, reader| {
        if key != "tipo" {
            return reader.skip().map_err(MessageError::from);
        }
        if tipo.is_some() {
            return Err(MessageError::TipoTwice);
        }
        if reader.peek() != Some(b'"') {
            // Say "not JSON" of what is not JSON, and "not a text" of the rest.
            reader.skip()?;
            return Err(MessageError::TipoNotText);
        }
        tipo = Some(reader.text(usize::MAX).map_err(|_| MessageError::TipoNotText)?);
        Ok(())
    })?;
    let tipo = tipo.ok_or(MessageError::TipoMissing)?;
    match known(&tipo) {
        Some((tipo, read)) => {
            check_len(tipo, text.len())?;
            read(&mut Reader::new(text)).map_err(|FieldError { field, fault }| {
                // Outside every field nothing can be wrong any more: `scan` has seen to it.
                MessageError::Field { tipo, field: field.unwrap_or("tipo"), fault }
            })
        }
        None => Ok(Message::Unknown),
    }
}

type ReadFields = fn(&mut Reader<'_>) -> Result<Message, FieldError>;

/// The `tipo`s of this version.
fn known(tipo: &str) -> Option<(&'static str, ReadFields)> {
    Some(match tipo {
        "REGISTRO" => ("REGISTRO", |reader| register(reader).map(Message::Register)),
        "LISTA_PEERS" => ("LISTA_PEERS", peer_list),
        "NOVO_PEER" => ("NOVO_PEER", new_peer),
        "ANUNCIO" => ("ANUNCIO", announce),
        "ESTOQUE" => ("ESTOQUE", have),
        "RETIRADA" => ("RETIRADA", |reader| runs_only(reader).map(Message::Withdraw)),
        "SUGESTAO" => ("SUGESTAO", |reader| runs_only(reader).map(Message::Suggest)),
        "INTERESSE" => ("INTERESSE", |_| Ok(Message::Interested)),
        "DESINTERESSE" => ("DESINTERESSE", |_| Ok(Message::NotInterested)),
        "BLOQUEIO" => ("BLOQUEIO", |_| Ok(Message::Choke)),
        "DESBLOQUEIO" => ("DESBLOQUEIO", |_| Ok(Message::Unchoke)),
        "PEDIDO" => ("PEDIDO", |reader| blocks_only(reader).map(Message::Request)),
        "CANCELA" => ("CANCELA", |reader| blocks_only(reader).map(Message::Cancel)),
        "NEGADO" => ("NEGADO", refuse),
        "PEDIDO_METADADOS" => ("PEDIDO_METADADOS", request_metadata),
        "FAIXAS" => ("FAIXAS", lanes),
        "VIVO" => ("VIVO", |_| Ok(Message::KeepAlive)),
        "DESLIGAMENTO" => ("DESLIGAMENTO", goodbye),
        _ => return None,
    })
}

/// Only bitmaps and peer lists may use the room that the frame's cap leaves them.
fn check_len(tipo: &'static str, len: usize) -> Result<(), MessageError> {
    let max = limits::CONTROL_FRAME_MAX - PREFIX_LEN;
    if len > max && !matches!(tipo, "ESTOQUE" | "LISTA_PEERS") {
        return Err(MessageError::TooLong { tipo, len, max });
    }
    Ok(())
}

/// Where the value of one field is kept while the others are read.
struct Field<T> {
    name: &'static str,
    value: Option<T>,
}

impl<T> Field<T> {
    fn named(name: &'static str) -> Self {
        Self { name, value: None }
    }

    fn set(&mut self, value: Result<T, impl Into<FieldError>>) -> Result<(), FieldError> {
        if self.value.is_some() {
            return Err(self.error(FieldFault::Twice));
        }
        let value = value.map_err(|error| {
            let FieldError { field, fault } = error.into();
            FieldError { field: field.or(Some(self.name)), fault }
        })?;
        self.value = Some(value);
        Ok(())
    }

    fn required(self) -> Result<T, FieldError> {
        let missing = self.error(FieldFault::Missing);
        self.value.ok_or(missing)
    }

    fn or(self, absent: T) -> T {
        self.value.unwrap_or(absent)
    }

    fn error(&self, fault: FieldFault) -> FieldError {
        FieldError { field: Some(self.name), fault }
    }
}

/// Passes over a field that this version does not have.
fn ignore(reader: &mut Reader<'_>) -> Result<(), FieldError> {
    reader.skip().map_err(|_| FieldFault::NotAnObject.into())
}

fn register(reader: &mut Reader<'_>) -> Result<Register, FieldError> {
    let mut id = Field::named("id");
    let mut version = Field::named("versao");
    let mut share = Field::named("share");
    let mut destination = Field::named("destino");
    let mut port = Field::named("porta");
    let mut block_max = Field::named("bloco_max");
    let mut lanes_max = Field::named("faixas_max");
    let mut complete = Field::named("completo");
    let mut unchoked = Field::named("desbloqueado");
    let mut lane = Field::named("faixa");
    let mut key = Field::named("chave");
    reader.object(|name, reader| match name {
        "id" => id.set(peer_id(reader)),
        "versao" => version.set(u32_number(reader)),
        "share" => share.set(share_id(reader)),
        "destino" => destination.set(destination_word(reader)),
        "porta" => port.set(u16_number(reader)),
        "bloco_max" => block_max.set(u32_number(reader)),
        "faixas_max" => lanes_max.set(u8_number(reader)),
        "completo" => complete.set(reader.boolean()),
        "desbloqueado" => unchoked.set(reader.boolean()),
        "faixa" => lane.set(lane_key(reader)),
        "chave" => key.set(lane_key(reader)),
        _ => ignore(reader),
    })?;
    let absent = Register::new(id.required()?, share.required()?, destination.required()?);
    Ok(Register {
        version: version.required()?,
        port: port.or(absent.port),
        block_max: block_max.or(absent.block_max),
        lanes_max: lanes_max.or(absent.lanes_max),
        complete: complete.or(absent.complete),
        unchoked: unchoked.or(absent.unchoked),
        lane: lane.value,
        key: key.value,
        ..absent
    })
}

fn peer_list(reader: &mut Reader<'_>) -> Result<Message, FieldError> {
    let mut peers = Field::named("peers");
    let mut interval = Field::named("intervalo");
    reader.object(|name, reader| match name {
        "peers" => peers.set(capped(reader, limits::PEER_LIST_MAX, peer_addr)),
        "intervalo" => interval.set(u32_number(reader)),
        _ => ignore(reader),
    })?;
    Ok(Message::PeerList { peers: peers.required()?, interval: interval.or(INTERVAL_DEFAULT) })
}

fn new_peer(reader: &mut Reader<'_>) -> Result<Message, FieldError> {
    let mut peer = Field::named("peer");
    reader.object(|name, reader| match name {
        "peer" => peer.set(peer_addr(reader)),
        _ => ignore(reader),
    })?;
    peer.required().map(Message::NewPeer)
}

fn announce(reader: &mut Reader<'_>) -> Result<Message, FieldError> {
    let mut id = Field::named("id");
    let mut complete = Field::named("completo");
    reader.object(|name, reader| match name {
        "id" => id.set(peer_id(reader)),
        "completo" => complete.set(reader.boolean()),
        _ => ignore(reader),
    })?;
    Ok(Message::Announce { id: id.required()?, complete: complete.or(false) })
}

fn have(reader: &mut Reader<'_>) -> Result<Message, FieldError> {
    let mut id = Field::named("id");
    let mut bitmap = Field::named("mapa");
    let mut news = Field::named("estoque");
    reader.object(|name, reader| match name {
        "id" => id.set(peer_id(reader)),
        "mapa" => bitmap.set(base64(reader)),
        "estoque" => news.set(runs(reader)),
        _ => ignore(reader),
    })?;
    let holdings = match (bitmap.value, news.value) {
        (Some(bitmap), None) => Holdings::Bitmap(bitmap),
        (None, Some(news)) => Holdings::News(news),
        (Some(_), Some(_)) => {
            return Err(FieldError { field: Some("mapa"), fault: FieldFault::Excluded });
        }
        (None, None) => {
            return Err(FieldError { field: Some("estoque"), fault: FieldFault::Missing });
        }
    };
    Ok(Message::Have { id: id.required()?, holdings })
}

fn runs_only(reader: &mut Reader<'_>) -> Result<Vec<Run>, FieldError> {
    let mut pieces = Field::named("estoque");
    reader.object(|name, reader| match name {
        "estoque" => pieces.set(runs(reader)),
        _ => ignore(reader),
    })?;
    pieces.required()
}

fn blocks_only(reader: &mut Reader<'_>) -> Result<Vec<RawBlock>, FieldError> {
    let mut wanted = Field::named("blocos");
    reader.object(|name, reader| match name {
        "blocos" => wanted.set(blocks(reader)),
        _ => ignore(reader),
    })?;
    wanted.required()
}

fn refuse(reader: &mut Reader<'_>) -> Result<Message, FieldError> {
    let mut refused = Field::named("blocos");
    let mut reason = Field::named("motivo");
    reader.object(|name, reader| match name {
        "blocos" => refused.set(blocks(reader)),
        "motivo" => reason.set(refuse_word(reader)),
        _ => ignore(reader),
    })?;
    Ok(Message::Refuse { blocks: refused.required()?, reason: reason.required()? })
}

fn request_metadata(reader: &mut Reader<'_>) -> Result<Message, FieldError> {
    let mut manifest = Field::named("manifesto");
    let mut pages = Field::named("paginas");
    reader.object(|name, reader| match name {
        "manifesto" => manifest.set(reader.boolean()),
        "paginas" => pages.set(capped(reader, usize::MAX, page_id)),
        _ => ignore(reader),
    })?;
    Ok(Message::RequestMetadata { manifest: manifest.or(false), pages: pages.or(Vec::new()) })
}

fn lanes(reader: &mut Reader<'_>) -> Result<Message, FieldError> {
    let mut count = Field::named("quantas");
    reader.object(|name, reader| match name {
        "quantas" => count.set(u8_number(reader)),
        _ => ignore(reader),
    })?;
    count.required().map(Message::Lanes)
}

fn goodbye(reader: &mut Reader<'_>) -> Result<Message, FieldError> {
    let mut id = Field::named("id");
    let mut reason = Field::named("motivo");
    reader.object(|name, reader| match name {
        "id" => id.set(peer_id(reader)),
        "motivo" => reason.set(reader.text(limits::REASON_TEXT_MAX).map(String::from)),
        _ => ignore(reader),
    })?;
    Ok(Message::Goodbye { id: id.required()?, reason: reason.value })
}

/// A list of at most `max` entries. It grows as they come.
fn capped<T, E: From<FieldFault>>(
    reader: &mut Reader<'_>,
    max: usize,
    mut entry: impl FnMut(&mut Reader<'_>) -> Result<T, E>,
) -> Result<Vec<T>, E> {
    let mut entries = Vec::new();
    reader.list(|reader| {
        if entries.len() == max {
            return Err(E::from(FieldFault::TooMany { max }));
        }
        entries.push(entry(reader)?);
        Ok(())
    })?;
    Ok(entries)
}

// The frame's cap bounds these lists: an entry has at least six bytes of text.

fn blocks(reader: &mut Reader<'_>) -> Result<Vec<RawBlock>, FieldFault> {
    capped(reader, usize::MAX, |reader| {
        let [piece, offset, len] = reader.numbers()?;
        Ok(RawBlock { piece, offset, len })
    })
}

fn runs(reader: &mut Reader<'_>) -> Result<Vec<Run>, FieldFault> {
    capped(reader, usize::MAX, |reader| {
        let [first, count] = reader.numbers()?;
        Ok(Run { first, count })
    })
}

fn page_id(reader: &mut Reader<'_>) -> Result<PageId, FieldFault> {
    let [file, level, page] = reader.numbers()?;
    Ok(PageId {
        file: narrow(file, u32::MAX)?,
        level: narrow(level, u8::MAX)?,
        page: narrow(page, u32::MAX)?,
    })
}

fn peer_addr(reader: &mut Reader<'_>) -> Result<PeerAddr, FieldError> {
    let mut id = Field::named("id");
    let mut ip = Field::named("ip");
    let mut port = Field::named("porta");
    reader.object(|name, reader| match name {
        "id" => id.set(peer_id(reader)),
        "ip" => ip.set(address(reader)),
        "porta" => port.set(u16_number(reader)),
        _ => ignore(reader),
    })?;
    Ok(PeerAddr { id: id.required()?, ip: ip.required()?, port: port.required()? })
}

/// An address; one of IPv4 in IPv6's clothes (`::ffff:192.0.2.7`) is taken for what it is.
fn address(reader: &mut Reader<'_>) -> Result<IpAddr, FieldFault> {
    let text = reader.text(IP_TEXT_MAX)?;
    let ip: IpAddr = text.parse().map_err(|_| FieldFault::NotAnAddress)?;
    Ok(ip.to_canonical())
}

fn peer_id(reader: &mut Reader<'_>) -> Result<PeerId, FieldFault> {
    reader.text(32)?.parse().map_err(|_| FieldFault::NotHex)
}

fn share_id(reader: &mut Reader<'_>) -> Result<ShareId, FieldFault> {
    reader.text(64)?.parse().map_err(|_| FieldFault::NotHex)
}

fn lane_key(reader: &mut Reader<'_>) -> Result<LaneKey, FieldFault> {
    LaneKey::from_hex(&reader.text(32)?).ok_or(FieldFault::NotHex)
}

fn destination_word(reader: &mut Reader<'_>) -> Result<Destination, FieldFault> {
    let word = reader.text(limits::CONTROL_FRAME_MAX)?;
    let all = [Destination::Peer, Destination::Tracker];
    all.into_iter().find(|known| known.word() == word).ok_or(FieldFault::UnknownWord)
}

fn refuse_word(reader: &mut Reader<'_>) -> Result<RefuseReason, FieldFault> {
    let word = reader.text(limits::CONTROL_FRAME_MAX)?;
    let all = [RefuseReason::Choked, RefuseReason::NotHeld, RefuseReason::TooMany];
    all.into_iter().find(|known| known.word() == word).ok_or(FieldFault::UnknownWord)
}

fn base64(reader: &mut Reader<'_>) -> Result<Vec<u8>, FieldFault> {
    let text = reader.text(usize::MAX)?;
    BASE64.decode(text.as_bytes()).map_err(|_| FieldFault::NotBase64)
}

fn u8_number(reader: &mut Reader<'_>) -> Result<u8, FieldFault> {
    narrow(reader.number()?, u8::MAX)
}

fn u16_number(reader: &mut Reader<'_>) -> Result<u16, FieldFault> {
    narrow(reader.number()?, u16::MAX)
}

fn u32_number(reader: &mut Reader<'_>) -> Result<u32, FieldFault> {
    narrow(reader.number()?, u32::MAX)
}

fn narrow<T: TryFrom<u64> + Into<u64>>(number: u64, max: T) -> Result<T, FieldFault> {
    T::try_from(number).map_err(|_| FieldFault::TooLarge { max: max.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(json: &str) -> (&'static str, FieldFault) {
        match parse_message(json.as_bytes()) {
            Err(MessageError::Field { field, fault, .. }) => (field, fault),
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn the_fields_may_come_in_any_order_and_with_escapes() {
        let json =
            br#"{"blocos" : [ [ 1 , 0 , 16384 ] ], "extra":{"a":[1]}, "\u0074ipo":"PEDIDO"}"#;
        let blocks = vec![RawBlock { piece: 1, offset: 0, len: 16384 }];
        assert_eq!(parse_message(json), Ok(Message::Request(blocks)));
    }

    #[test]
    fn tipo_twice_is_noticed_however_it_is_written() {
        let json = br#"{"tipo":"VIVO","\u0074\u0069po":"VIVO"}"#;
        assert_eq!(parse_message(json), Err(MessageError::TipoTwice));
    }

    #[test]
    fn an_unknown_tipo_may_carry_anything_under_any_name() {
        let json = br#"{"tipo":"FUTURO","id":5,"blocos":"x","mapa":1e999,"id":null}"#;
        assert_eq!(parse_message(json), Ok(Message::Unknown));
    }

    #[test]
    fn a_field_of_another_message_may_carry_anything() {
        assert_eq!(parse_message(br#"{"tipo":"VIVO","blocos":7}"#), Ok(Message::KeepAlive));
    }

    #[test]
    fn a_known_field_twice_is_refused() {
        let json = r#"{"tipo":"FAIXAS","quantas":1,"quantas":2}"#;
        assert_eq!(field(json), ("quantas", FieldFault::Twice));
    }

    #[test]
    fn a_missing_field_is_named_also_inside_a_peer() {
        assert_eq!(field(r#"{"tipo":"PEDIDO"}"#), ("blocos", FieldFault::Missing));
        let id = "0".repeat(32);
        let json = format!(r#"{{"tipo":"NOVO_PEER","peer":{{"id":"{id}","ip":"::1"}}}}"#);
        assert_eq!(field(&json), ("porta", FieldFault::Missing));
    }

    #[test]
    fn numbers_that_do_not_fit_their_field_are_refused() {
        let json = r#"{"tipo":"FAIXAS","quantas":256}"#;
        assert_eq!(field(json), ("quantas", FieldFault::TooLarge { max: 255 }));
        let json = r#"{"tipo":"PEDIDO","blocos":[[0,0,18446744073709551616]]}"#;
        assert_eq!(field(json), ("blocos", FieldFault::TooLarge { max: u64::MAX }));
        let json = r#"{"tipo":"PEDIDO_METADADOS","paginas":[[4294967296,0,0]]}"#;
        assert_eq!(field(json), ("paginas", FieldFault::TooLarge { max: u32::MAX.into() }));
    }

    #[test]
    fn lists_of_the_wrong_shape_are_refused() {
        for (blocks, fault) in [
            ("7", FieldFault::NotAList),
            ("[7]", FieldFault::NotAList),
            ("[[1,2]]", FieldFault::WrongCount { want: 3 }),
            ("[[1,2,3,4]]", FieldFault::WrongCount { want: 3 }),
            ("[[1,2,[3]]]", FieldFault::NotANumber),
        ] {
            let json = format!(r#"{{"tipo":"PEDIDO","blocos":{blocks}}}"#);
            assert_eq!(field(&json), ("blocos", fault), "{blocks}");
        }
    }

    #[test]
    fn texts_of_the_wrong_form_are_refused() {
        let id = "0".repeat(32);
        for (json, wanted) in [
            (
                format!(r#"{{"tipo":"ANUNCIO","id":"{}"}}"#, "0".repeat(31)),
                ("id", FieldFault::NotHex),
            ),
            (
                format!(r#"{{"tipo":"ANUNCIO","id":"{}"}}"#, "A".repeat(32)),
                ("id", FieldFault::NotHex),
            ),
            (r#"{"tipo":"ANUNCIO","id":7}"#.to_owned(), ("id", FieldFault::NotText)),
            (
                format!(r#"{{"tipo":"ESTOQUE","id":"{id}","mapa":"AA=A"}}"#),
                ("mapa", FieldFault::NotBase64),
            ),
            (
                format!(r#"{{"tipo":"NOVO_PEER","peer":{{"id":"{id}","ip":"a.b","porta":1}}}}"#),
                ("ip", FieldFault::NotAnAddress),
            ),
            (
                r#"{"tipo":"NEGADO","blocos":[],"motivo":"sim"}"#.to_owned(),
                ("motivo", FieldFault::UnknownWord),
            ),
            (
                format!(r#"{{"tipo":"DESLIGAMENTO","id":"{id}","motivo":"{}"}}"#, "x".repeat(257)),
                ("motivo", FieldFault::TooLong { max: 256 }),
            ),
        ] {
            assert_eq!(field(&json), wanted, "{json}");
        }
    }

    /// Found by fuzzing: counted as it was written, a reason could be taken that, written with
    /// longer escapes, would not be taken again.
    #[test]
    fn a_reason_is_as_long_as_what_it_says_however_it_is_written() {
        for tab in ["\\t", "\\u0009"] {
            let goodbye = |tabs: usize| {
                let (id, reason) = ("0".repeat(32), tab.repeat(tabs));
                parse_message(
                    format!(r#"{{"tipo":"DESLIGAMENTO","id":"{id}","motivo":"{reason}"}}"#)
                        .as_bytes(),
                )
            };
            assert!(goodbye(limits::REASON_TEXT_MAX).is_ok(), "{tab}");
            assert!(goodbye(limits::REASON_TEXT_MAX + 1).is_err(), "{tab}");
        }
    }

    #[test]
    fn holdings_are_a_bitmap_or_news_and_never_both_or_neither() {
        let id = "0".repeat(32);
        let both = format!(r#"{{"tipo":"ESTOQUE","id":"{id}","mapa":"AA==","estoque":[]}}"#);
        assert_eq!(field(&both), ("mapa", FieldFault::Excluded));
        let neither = format!(r#"{{"tipo":"ESTOQUE","id":"{id}"}}"#);
        assert_eq!(field(&neither), ("estoque", FieldFault::Missing));
    }

    #[test]
    fn only_bitmaps_and_peer_lists_may_be_longer_than_a_control_frame() {
        let filler = " ".repeat(limits::CONTROL_FRAME_MAX);
        let long = |json: &str| parse_message(format!("{json}{filler}").as_bytes());
        assert!(long(r#"{"tipo":"LISTA_PEERS","peers":[]}"#).is_ok());
        let error = long(r#"{"tipo":"PEDIDO","blocos":[]}"#).unwrap_err();
        assert!(matches!(error, MessageError::TooLong { tipo: "PEDIDO", .. }), "{error}");
    }

    #[test]
    fn a_peer_list_has_a_thousand_peers_and_no_more() {
        let list = |count: usize| {
            let peer = format!(r#"{{"id":"{}","ip":"192.0.2.7","porta":1}}"#, "0".repeat(32));
            let json =
                format!(r#"{{"tipo":"LISTA_PEERS","peers":[{}]}}"#, vec![peer; count].join(","));
            parse_message(json.as_bytes())
        };
        assert!(list(limits::PEER_LIST_MAX).is_ok());
        let fault = FieldFault::TooMany { max: limits::PEER_LIST_MAX };
        assert_eq!(
            list(limits::PEER_LIST_MAX + 1),
            Err(MessageError::Field { tipo: "LISTA_PEERS", field: "peers", fault })
        );
    }

    #[test]
    fn an_address_in_ipv6_clothes_is_taken_for_what_it_is() {
        let id = "0".repeat(32);
        let json = format!(
            r#"{{"tipo":"NOVO_PEER","peer":{{"id":"{id}","ip":"::ffff:192.0.2.7","porta":1}}}}"#
        );
        let Ok(Message::NewPeer(peer)) = parse_message(json.as_bytes()) else { panic!("{json}") };
        assert_eq!(peer.socket_addr().to_string(), "192.0.2.7:1");
    }

    #[test]
    fn a_lane_key_is_never_shown() {
        let id = "0".repeat(32);
        let json = format!(
            r#"{{"tipo":"REGISTRO","id":"{id}","versao":1,"destino":"peer","share":"{id}{id}","chave":"{}"}}"#,
            "ab".repeat(16)
        );
        let message = parse_message(json.as_bytes()).unwrap();
        assert!(!format!("{message:?}").contains("abab"));
    }

    proptest! {
        #[test]
        fn a_message_with_bytes_changed_is_a_value_or_an_error_and_never_a_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut json = br#"{"tipo":"ESTOQUE","id":"00000000000000000000000000000007","estoque":[[1,2],[30,4]]}"#.to_vec();
            for (at, byte) in changes {
                let at = at.index(json.len());
                json[at] = byte;
            }
            let _ = parse_message(&json);
        }
    }
}
