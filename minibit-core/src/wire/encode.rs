//! Message to frame: JSON written straight into the buffer that goes to the socket, without
//! an intermediate tree.
//!
//! A field at the value that its absence stands for is left out, so frames are as short as the
//! protocol allows and `parse_message` gives back the same message.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};
use data_encoding::{BASE64, HEXLOWER};

use crate::types::{PageId, limits};

use super::frame::{KIND_CONTROL, PREFIX_LEN};
use super::message::{Destination, Holdings, Message, PeerAddr, RawBlock, Register, Run};

/// Room for the fields of most messages.
const ROOM: usize = 64;

impl Message {
    /// Appends the whole control frame to `out`: length, kind and JSON.
    ///
    /// The caller keeps lists as short as their caps ([`limits::REQUESTS_IN_FLIGHT_MAX`],
    /// [`limits::PEER_LIST_MAX`]), so that the frame stays within its own.
    ///
    /// # Panics
    /// On [`Message::Unknown`], which stands for what we cannot say.
    pub fn encode(&self, out: &mut BytesMut) {
        assert!(!matches!(self, Self::Unknown), "a message of unknown kind cannot be sent");
        let start = out.len();
        out.reserve(PREFIX_LEN + ROOM);
        out.put_u32(0);
        out.put_u8(KIND_CONTROL);
        out.put_slice(b"{\"tipo\":\"");
        out.put_slice(self.tipo().as_bytes());
        out.put_u8(b'"');
        self.encode_fields(out);
        out.put_u8(b'}');
        // A frame of 4 GiB cannot come to be: every list is capped far below.
        let length = (out.len() - start - (PREFIX_LEN - 1)) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn encode_fields(&self, out: &mut BytesMut) {
        match self {
            Self::Register(register) => put_register(out, register),
            Self::PeerList { peers, interval } => {
                put_list(out, "peers", peers, put_peer);
                put_number(out, "intervalo", u64::from(*interval));
            }
            Self::NewPeer(peer) => {
                put_key(out, "peer");
                put_peer(out, peer);
            }
            Self::Announce { id, complete } => {
                put_hex(out, "id", &id.0);
                put_boolean(out, "completo", *complete);
            }
            Self::Have { id, holdings } => {
                put_hex(out, "id", &id.0);
                match holdings {
                    Holdings::Bitmap(bitmap) => put_base64(out, "mapa", bitmap),
                    Holdings::News(runs) => put_list(out, "estoque", runs, put_run),
                }
            }
            Self::Withdraw(runs) | Self::Suggest(runs) => put_list(out, "estoque", runs, put_run),
            Self::Request(blocks) | Self::Cancel(blocks) => {
                put_list(out, "blocos", blocks, put_block);
            }
            Self::Refuse { blocks, reason } => {
                put_list(out, "blocos", blocks, put_block);
                put_text(out, "motivo", reason.word());
            }
            Self::RequestMetadata { manifest, pages } => {
                put_boolean(out, "manifesto", *manifest);
                put_list(out, "paginas", pages, put_page);
            }
            Self::Lanes(count) => put_number(out, "quantas", u64::from(*count)),
            Self::Goodbye { id, reason } => {
                put_hex(out, "id", &id.0);
                if let Some(reason) = reason {
                    put_text(out, "motivo", reason_within_cap(reason));
                }
            }
            Self::Interested
            | Self::NotInterested
            | Self::Choke
            | Self::Unchoke
            | Self::KeepAlive
            | Self::Unknown => {}
        }
    }
}

fn put_register(out: &mut BytesMut, register: &Register) {
    let absent = Register::new(register.id, register.share, register.destination);
    put_hex(out, "id", &register.id.0);
    put_number(out, "versao", u64::from(register.version));
    put_text(out, "destino", register.destination.word());
    put_hex(out, "share", &register.share.0);
    if register.port != absent.port || register.destination == Destination::Tracker {
        put_number(out, "porta", u64::from(register.port));
    }
    if register.block_max != absent.block_max {
        put_number(out, "bloco_max", u64::from(register.block_max));
    }
    if register.lanes_max != absent.lanes_max {
        put_number(out, "faixas_max", u64::from(register.lanes_max));
    }
    put_boolean(out, "completo", register.complete);
    put_boolean(out, "desbloqueado", register.unchoked);
    if let Some(lane) = &register.lane {
        put_hex(out, "faixa", &lane.0);
    }
    if let Some(key) = &register.key {
        put_hex(out, "chave", &key.0);
    }
}

/// The part of `reason` that its receiver takes, whole characters.
fn reason_within_cap(reason: &str) -> &str {
    let mut end = reason.len().min(limits::REASON_TEXT_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// `,"name":`
fn put_key(out: &mut BytesMut, name: &str) {
    out.put_slice(b",\"");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\":");
}

/// `,"name":true`, or nothing for false, which is what an absent field stands for.
fn put_boolean(out: &mut BytesMut, name: &str, value: bool) {
    if value {
        put_key(out, name);
        out.put_slice(b"true");
    }
}

fn put_number(out: &mut BytesMut, name: &str, value: u64) {
    put_key(out, name);
    put_digits(out, value);
}

fn put_digits(out: &mut BytesMut, value: u64) {
    let mut text = [0; DIGITS_MAX];
    let start = write_digits(&mut text, value);
    out.put_slice(&text[start..]);
}

/// Digits of the largest number.
const DIGITS_MAX: usize = 20;

/// Writes the digits of a number to the end of `text`, which has room for them; where they begin.
fn write_digits(text: &mut [u8], mut value: u64) -> usize {
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return at;
        }
    }
}

fn put_hex<const N: usize>(out: &mut BytesMut, name: &str, bytes: &[u8; N]) {
    put_key(out, name);
    put_quoted_hex(out, bytes);
}

fn put_quoted_hex<const N: usize>(out: &mut BytesMut, bytes: &[u8; N]) {
    out.put_u8(b'"');
    let start = out.len();
    out.resize(start + 2 * N, 0);
    HEXLOWER.encode_mut(bytes, &mut out[start..]);
    out.put_u8(b'"');
}

fn put_base64(out: &mut BytesMut, name: &str, bytes: &[u8]) {
    put_key(out, name);
    out.put_u8(b'"');
    let start = out.len();
    out.resize(start + BASE64.encode_len(bytes.len()), 0);
    BASE64.encode_mut(bytes, &mut out[start..]);
    out.put_u8(b'"');
}

fn put_text(out: &mut BytesMut, name: &str, text: &str) {
    put_key(out, name);
    out.put_u8(b'"');
    for char in text.chars() {
        match char {
            '"' => out.put_slice(b"\\\""),
            '\\' => out.put_slice(b"\\\\"),
            '\0'..='\x1f' => put_formatted(out, format_args!("\\u{:04x}", u32::from(char))),
            _ => out.put_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.put_u8(b'"');
}

#[expect(clippy::expect_used, reason = "a growing buffer takes every text")]
fn put_formatted(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a growing buffer takes every text");
}

/// `,"name":[entry,...]`
fn put_list<T>(
    out: &mut BytesMut,
    name: &str,
    entries: &[T],
    put_entry: impl Fn(&mut BytesMut, &T),
) {
    put_key(out, name);
    out.put_u8(b'[');
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        put_entry(out, entry);
    }
    out.put_u8(b']');
}

/// `[number,number,number]`, made from its end on and appended in one go: requests have hundreds.
fn put_numbers<const N: usize>(out: &mut BytesMut, numbers: [u64; N]) {
    const { assert!(N >= 1 && N <= 3) };
    let mut text = [b','; 3 * (DIGITS_MAX + 1) + 1];
    let mut start = text.len() - 1;
    text[start] = b']';
    for number in numbers.into_iter().rev() {
        // One byte before the digits is the comma, of the first number the bracket.
        start = write_digits(&mut text[..start], number) - 1;
    }
    text[start] = b'[';
    out.put_slice(&text[start..]);
}

fn put_run(out: &mut BytesMut, run: &Run) {
    put_numbers(out, [run.first, run.count]);
}

fn put_block(out: &mut BytesMut, block: &RawBlock) {
    put_numbers(out, [block.piece, block.offset, block.len]);
}

fn put_page(out: &mut BytesMut, page: &PageId) {
    put_numbers(out, [u64::from(page.file), u64::from(page.level), u64::from(page.page)]);
}

fn put_peer(out: &mut BytesMut, peer: &PeerAddr) {
    out.put_slice(b"{\"id\":");
    put_quoted_hex(out, &peer.id.0);
    put_key(out, "ip");
    put_formatted(out, format_args!("\"{}\"", peer.ip.to_canonical()));
    put_number(out, "porta", u64::from(peer.port));
    out.put_u8(b'}');
}

#[cfg(test)]
mod tests {
    use super::super::{FrameLimits, LaneKey, RefuseReason, parse_head, parse_message};
    use super::*;
    use crate::types::{PeerId, ShareId};
    use proptest::prelude::*;

    fn frame(message: &Message) -> BytesMut {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        out
    }

    fn peer_id() -> impl Strategy<Value = PeerId> {
        any::<[u8; 16]>().prop_map(PeerId)
    }

    fn peer_addr() -> impl Strategy<Value = PeerAddr> {
        (peer_id(), any::<std::net::IpAddr>(), any::<u16>()).prop_map(|(id, ip, port)| PeerAddr {
            id,
            ip: ip.to_canonical(),
            port,
        })
    }

    fn blocks() -> impl Strategy<Value = Vec<RawBlock>> {
        let block =
            any::<[u64; 3]>().prop_map(|[piece, offset, len]| RawBlock { piece, offset, len });
        prop::collection::vec(block, 0..20)
    }

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let run = any::<[u64; 2]>().prop_map(|[first, count]| Run { first, count });
        prop::collection::vec(run, 0..20)
    }

    fn register() -> impl Strategy<Value = Register> {
        let key = || any::<Option<[u8; 16]>>().prop_map(|key| key.map(LaneKey));
        let ids = (peer_id(), any::<[u8; 32]>().prop_map(ShareId));
        let numbers = any::<(u32, u16, u32, u8)>();
        (ids, numbers, any::<[bool; 3]>(), key(), key()).prop_map(
            |((id, share), (version, port, block_max, lanes_max), flags, lane, key)| {
                let [complete, unchoked, tracker] = flags;
                let destination = if tracker { Destination::Tracker } else { Destination::Peer };
                Register {
                    id,
                    version,
                    share,
                    destination,
                    port,
                    block_max,
                    lanes_max,
                    complete,
                    unchoked,
                    lane,
                    key,
                }
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        let page =
            any::<(u32, u8, u32)>().prop_map(|(file, level, page)| PageId { file, level, page });
        let reason = prop_oneof![
            Just(RefuseReason::Choked),
            Just(RefuseReason::NotHeld),
            Just(RefuseReason::TooMany)
        ];
        let holdings = prop_oneof![
            any::<Vec<u8>>().prop_map(Holdings::Bitmap),
            runs().prop_map(Holdings::News)
        ];
        prop_oneof![
            register().prop_map(Message::Register),
            (prop::collection::vec(peer_addr(), 0..9), any::<u32>())
                .prop_map(|(peers, interval)| Message::PeerList { peers, interval }),
            peer_addr().prop_map(Message::NewPeer),
            (peer_id(), any::<bool>())
                .prop_map(|(id, complete)| Message::Announce { id, complete }),
            (peer_id(), holdings).prop_map(|(id, holdings)| Message::Have { id, holdings }),
            runs().prop_map(Message::Withdraw),
            runs().prop_map(Message::Suggest),
            blocks().prop_map(Message::Request),
            blocks().prop_map(Message::Cancel),
            (blocks(), reason).prop_map(|(blocks, reason)| Message::Refuse { blocks, reason }),
            (any::<bool>(), prop::collection::vec(page, 0..9))
                .prop_map(|(manifest, pages)| Message::RequestMetadata { manifest, pages }),
            any::<u8>().prop_map(Message::Lanes),
            (peer_id(), any::<Option<String>>()).prop_map(|(id, reason)| Message::Goodbye {
                id,
                reason: reason.map(|text| reason_within_cap(&text).to_owned()),
            }),
            prop_oneof![
                Just(Message::Interested),
                Just(Message::NotInterested),
                Just(Message::Choke),
                Just(Message::Unchoke),
                Just(Message::KeepAlive)
            ],
        ]
    }

    #[test]
    fn a_request_is_these_bytes() {
        let block = RawBlock { piece: 7, offset: 262_144, len: 262_144 };
        let json = br#"{"tipo":"PEDIDO","blocos":[[7,262144,262144],[7,262144,262144]]}"#;
        let frame = frame(&Message::Request(vec![block, block]));
        assert_eq!(frame[..5], [0, 0, 0, json.len() as u8 + 1, 0]);
        assert_eq!(frame[5..], json[..]);
    }

    #[test]
    fn a_full_window_of_requests_fits_before_the_cap_many_times_over() {
        let block = RawBlock { piece: 1_048_575, offset: 16_515_072, len: 262_144 };
        let request = Message::Request(vec![block; limits::REQUESTS_IN_FLIGHT_MAX]);
        assert!(frame(&request).len() < limits::CONTROL_FRAME_MAX / 8);
    }

    #[test]
    fn the_longest_peer_list_is_within_its_cap() {
        let ip = std::net::Ipv6Addr::from([0x1111; 8]).into();
        let peer = PeerAddr { id: PeerId([0xff; 16]), ip, port: u16::MAX };
        let peers = vec![peer; limits::PEER_LIST_MAX];
        let list = frame(&Message::PeerList { peers, interval: u32::MAX });
        let (head, _) = parse_head(&list, &FrameLimits::tracker_client()).unwrap().unwrap();
        assert_eq!(head.body_len() + PREFIX_LEN, list.len());
        assert!(parse_message(&list[PREFIX_LEN..]).is_ok());
    }

    #[test]
    fn a_frame_is_appended_to_what_the_buffer_has() {
        let mut out = BytesMut::from(&b"before"[..]);
        Message::Choke.encode(&mut out);
        assert_eq!(out[6..], frame(&Message::Choke)[..]);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters_so_that_its_receiver_takes_it() {
        for text in ["é".repeat(300), "\"".repeat(300), "\0".repeat(300)] {
            let goodbye = Message::Goodbye { id: PeerId([0; 16]), reason: Some(text.clone()) };
            let read = parse_message(&frame(&goodbye)[5..]);
            let Ok(Message::Goodbye { reason: Some(cut), .. }) = read else {
                panic!("{text}: {read:?}")
            };
            assert!(text.starts_with(&cut) && cut.len() == limits::REASON_TEXT_MAX, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn a_message_reads_back_and_is_what_serde_json_takes_for_json(message in message()) {
            let frame = frame(&message);
            let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
            prop_assert_eq!(length, frame.len() - 4);
            prop_assert_eq!(frame[4], 0);
            let json: serde_json::Value = serde_json::from_slice(&frame[5..]).unwrap();
            prop_assert_eq!(&json["tipo"], message.tipo());
            prop_assert_eq!(parse_message(&frame[5..]), Ok(message));
        }
    }
}
