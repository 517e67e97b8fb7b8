//! `docs/protocol.md` against the code, and the table of bad input on the wire.
//!
//! The page is what strangers build from, so its examples are read out of it: every `frame`
//! block must decode to the message that is written here under its name, and encode back to the
//! same bytes. The fuzz targets' seeds are made of the same examples.
//!
//! The table holds the rows that the wire layer decides alone; what depends on a share or on a
//! link's history is tested in `peer`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use minibit_core::content::{FileEntry, Manifest, PieceHasher, Ticket, merge_pieces};
use minibit_core::types::{Geometry, PageId, PeerId, PieceSet, PieceSize, ShareId, limits};
use minibit_core::wire::{
    BlockHeader, Destination, FieldFault, Frame, FrameCodec, FrameError, FrameKind, FrameLimits,
    Holdings, LaneKey, Message, MessageError, MetadataHeader, MetadataItem, PeerAddr, Penalty,
    RawBlock, RefuseReason, Register, Run, WireError, parse_head, parse_message,
};
use tokio_util::codec::{Decoder, Encoder};

// ---- the page ----

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    fs::read_to_string(path).expect("docs/protocol.md")
}

/// The fenced blocks of the page whose info string begins with `kind`: (rest of it, lines).
fn blocks<'a>(page: &'a str, kind: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) else { continue };
        let inside: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(name) = info.strip_prefix(kind) {
            found.push((name.trim(), inside));
        }
    }
    found
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap_or_else(|_| panic!("{text}: not hex"))
}

/// The bytes of a `frame` block.
fn bytes_of(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let (binary, text) = match line.find('{') {
            Some(at) => line.split_at(at),
            None => (line.split('#').next().unwrap_or_default(), ""),
        };
        bytes.extend(hex(binary));
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn frames_of_the_page() -> BTreeMap<String, Vec<u8>> {
    let page = page();
    let blocks = blocks(&page, "frame");
    let count = blocks.len();
    let frames: BTreeMap<_, _> =
        blocks.into_iter().map(|(name, lines)| (name.to_owned(), bytes_of(&lines))).collect();
    assert_eq!(frames.len(), count, "two frames of one name");
    frames
}

// ---- what the page's frames say ----

fn id(hex: &str) -> PeerId {
    hex.parse().expect("an id")
}

fn expected() -> BTreeMap<&'static str, Frame> {
    let ours = id("0123456789abcdef0123456789abcdef");
    let theirs = PeerId::numbered(2);
    let share: ShareId =
        "7fdf955ef7b36f8565babb97471f22541a7402aa86b265561dbacf80e12ca437".parse().expect("an id");
    let key = LaneKey([
        0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0,
    ]);
    let block = |offset| RawBlock { piece: 7, offset, len: 16384 };
    let peer = PeerAddr { id: theirs, ip: "192.0.2.7".parse().expect("an address"), port: 4002 };
    let other = PeerAddr {
        id: PeerId([0xff; 16]),
        ip: "2001:db8::7".parse().expect("an address"),
        port: 4001,
    };
    let register = |id, destination| Register::new(id, share, destination);
    let have = |holdings| Message::Have { id: ours, holdings };
    let first = Register {
        port: 4001,
        block_max: limits::BLOCK_LEN_MAX,
        lanes_max: 8,
        ..register(ours, Destination::Peer)
    };
    let answer = Register {
        port: 4002,
        complete: true,
        unchoked: true,
        key: Some(key),
        id: theirs,
        ..first.clone()
    };
    let lane = Register { lane: Some(key), ..register(ours, Destination::Peer) };
    let to_tracker = Register { port: 4001, ..register(ours, Destination::Tracker) };
    let metadata = MetadataHeader {
        item: MetadataItem::HashPage,
        level: 0,
        file: 2,
        page: 3,
        offset: 0,
        total: 3,
        len: 3,
    };
    let absent = MetadataHeader { page: 9, total: 0, len: 0, ..metadata };
    let messages = [
        ("register-peer", Message::Register(first)),
        ("register-answer", Message::Register(answer)),
        ("register-lane", Message::Register(lane)),
        ("have-bitmap", have(Holdings::Bitmap(vec![0x80, 0x40]))),
        (
            "have-news",
            have(Holdings::News(vec![Run { first: 0, count: 1 }, Run { first: 5, count: 3 }])),
        ),
        ("withdraw", Message::Withdraw(vec![Run { first: 9, count: 1 }])),
        ("suggest", Message::Suggest(vec![Run { first: 4, count: 2 }])),
        ("suggest-free", Message::Suggest(vec![])),
        ("interested", Message::Interested),
        ("not-interested", Message::NotInterested),
        ("choke", Message::Choke),
        ("unchoke", Message::Unchoke),
        ("request", Message::Request(vec![block(0), block(16384)])),
        ("cancel", Message::Cancel(vec![block(16384)])),
        ("refuse", Message::Refuse { blocks: vec![block(0)], reason: RefuseReason::Choked }),
        (
            "request-metadata",
            Message::RequestMetadata {
                manifest: true,
                pages: vec![
                    PageId { file: 0, level: 1, page: 0 },
                    PageId { file: 0, level: 0, page: 3 },
                ],
            },
        ),
        ("lanes", Message::Lanes(4)),
        ("keep-alive", Message::KeepAlive),
        ("goodbye", Message::Goodbye { id: ours, reason: Some("done".into()) }),
        ("register-tracker", Message::Register(to_tracker)),
        ("peer-list", Message::PeerList { peers: vec![peer, other], interval: 30 }),
        ("new-peer", Message::NewPeer(peer)),
        ("announce", Message::Announce { id: ours, complete: true }),
    ];
    let mut frames: BTreeMap<_, _> =
        messages.into_iter().map(|(name, message)| (name, Frame::Control(message))).collect();
    let header = BlockHeader { piece: 7, offset: 16384, len: 4 };
    frames.insert("block", Frame::Block { header, payload: Bytes::from_static(b"MBit") });
    let payload = Bytes::from_static(&[0xaa, 0xbb, 0xcc]);
    frames.insert("metadata", Frame::Metadata { header: metadata, payload });
    frames.insert("metadata-absent", Frame::Metadata { header: absent, payload: Bytes::new() });
    frames
}

fn encode(codec: &mut FrameCodec, frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    match frame {
        Frame::Control(message) => codec.encode(message, &mut out).expect("a message"),
        Frame::Block { header, payload } => {
            out.extend_from_slice(&header.encode_frame_head());
            out.extend_from_slice(payload);
        }
        Frame::Metadata { header, payload } => {
            out.extend_from_slice(&header.encode_frame_head());
            out.extend_from_slice(payload);
        }
    }
    out.to_vec()
}

fn established() -> FrameLimits {
    FrameLimits::established(10, limits::BLOCK_LEN_MAX)
}

#[test]
fn every_frame_of_the_page_decodes_to_its_message_and_encodes_to_its_bytes() {
    let page = frames_of_the_page();
    let expected = expected();
    assert_eq!(
        page.keys().map(String::as_str).collect::<Vec<_>>(),
        expected.keys().copied().collect::<Vec<_>>(),
        "the page and this test name other frames"
    );
    for (name, frame) in &expected {
        let mut codec = FrameCodec::new(established());
        let mut src = BytesMut::from(&page[*name][..]);
        let decoded = codec.decode(&mut src).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(decoded.as_ref(), Some(frame), "{name}");
        assert!(src.is_empty(), "{name}: bytes follow the frame");
        assert_eq!(encode(&mut codec, frame), page[*name], "{name}");
    }
}

#[test]
fn the_page_has_an_example_of_every_tipo_it_names() {
    let page = page();
    let examples: Vec<_> = expected()
        .values()
        .filter_map(|frame| match frame {
            Frame::Control(message) => Some(message.tipo()),
            _ => None,
        })
        .collect();
    // The first column of the tables: `| TIPO |` or `| TIPO, TIPO |`.
    let named = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let tipos: Vec<_> = named
        .flat_map(|cell| cell.split(", "))
        .filter(|word| word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .filter(|word| !["BLOCO", "METADADOS"].contains(word))
        .collect();
    assert!(tipos.len() > 15, "{tipos:?}");
    for tipo in tipos {
        assert!(examples.contains(&tipo), "no example of {tipo}");
    }
}

#[test]
fn the_bitmap_of_the_page_is_pieces_0_and_9() {
    let geometry = Geometry::new(piece_size(), [10 * 16384]).expect("a share");
    let set = PieceSet::from_wire(&[0x80, 0x40], &geometry).expect("a bitmap");
    assert_eq!(set.iter().collect::<Vec<_>>(), [0, 9]);
}

#[test]
fn the_caps_of_the_page_are_the_codes() {
    let page = page();
    let allows = |limits: FrameLimits, kind: u8, whole: usize| {
        let mut head = (whole as u32 - 4).to_be_bytes().to_vec();
        head.push(kind);
        parse_head(&head, &limits).is_ok()
    };
    let cases = [
        (FrameLimits::before_handshake(), 0, 4096, "4,096"),
        (FrameLimits::tracker_server(), 0, 4096, "4,096"),
        (FrameLimits::tracker_client(), 0, 105_024, "105,024"),
        (established(), 0, 65_536, "65,536"),
        (established(), 1, 17 + 262_144, "17 + the link's block length"),
        (established(), 2, 27 + 65_536, "27 + 65,536"),
    ];
    for (limits, kind, cap, words) in cases {
        assert!(page.contains(words), "{words}");
        assert!(allows(limits, kind, cap), "{words}");
        assert!(!allows(limits, kind, cap + 1), "{words}");
    }
    let most = FrameLimits::established(limits::PIECES_MAX, 16384);
    let cap = 1024 + 4 * (limits::PIECES_MAX as usize / 8).div_ceil(3);
    assert!(allows(most, 0, cap) && !allows(most, 0, cap + 1));
}

// ---- the page's example share ----

fn piece_size() -> PieceSize {
    PieceSize::new(16384).expect("a piece size")
}

fn content_of_the_page() -> BTreeMap<String, String> {
    let page = page();
    let [(_, lines)] = &blocks(&page, "content")[..] else { panic!("one block `content`") };
    let pairs = lines.iter().map(|line| line.split_once("  ").expect("a name and a value"));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn the_example_share_of_the_page_has_these_hashes_manifest_and_ticket() {
    let content = content_of_the_page();
    let zeros = vec![0; 16385];
    let geometry = Geometry::new(piece_size(), [zeros.len() as u64]).expect("a share");
    let mut pieces = Vec::new();
    for (piece, bytes) in geometry.pieces().zip(zeros.chunks(16384)) {
        let mut hasher = PieceHasher::new(&geometry, piece);
        hasher.update(bytes);
        pieces.push(hasher.finish());
        assert_eq!(hasher.finish().to_string(), content[&format!("piece {piece}")]);
    }
    let root = merge_pieces(&pieces);
    assert_eq!(root.to_string(), content["root"]);

    let file = FileEntry { path: vec!["zeros.bin".into()], len: 16385, root };
    let manifest =
        Manifest::new("zeros.bin".into(), true, piece_size(), vec![file]).expect("a manifest");
    assert_eq!(manifest.encode(), hex(&content["manifest"]));
    assert_eq!(Manifest::decode(&hex(&content["manifest"])).expect("a manifest"), manifest);
    assert_eq!(manifest.share_id().to_string(), content["share"]);

    let tracker = "192.0.2.7:4000".parse().expect("an address");
    let peer = "[2001:db8::7]:4001".parse().expect("an address");
    let ticket = Ticket::new(manifest.share_id(), [tracker], [peer]).expect("a ticket");
    assert_eq!(ticket.to_string(), content["ticket"]);
    assert_eq!(content["ticket"].parse::<Ticket>().expect("a ticket"), ticket);
}

// ---- bad input on the wire ----

/// A whole control frame with this body.
fn control(body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32 + 1).to_be_bytes().to_vec();
    frame.push(0);
    frame.extend(body);
    frame
}

/// Reads a stream to its end with the limits of an established link; the frames and how it
/// ended.
fn read(stream: &[u8]) -> (Vec<Frame>, Result<(), WireError>) {
    let mut codec = FrameCodec::new(established());
    let mut src = BytesMut::from(stream);
    let mut frames = Vec::new();
    loop {
        match codec.decode_eof(&mut src) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, Ok(())),
            Err(error) => return (frames, Err(error)),
        }
    }
}

#[test]
fn bad_frames_are_refused_each_with_its_own_reason() {
    use FrameError as E;
    let block = |frame_adds: u8| {
        let mut head = BlockHeader { piece: 0, offset: 0, len: 4 }.encode_frame_head().to_vec();
        head[3] += frame_adds;
        head.extend([0; 8]);
        head
    };
    let head = |length: u32, kind: u8| [&length.to_be_bytes()[..], &[kind]].concat();
    type Is = fn(&FrameError) -> bool;
    let rows: [(&str, Vec<u8>, Is); 12] = [
        ("length 0", vec![0; 4], |e| matches!(e, E::Empty)),
        ("length 0xFFFFFFFF", vec![0xff; 4], |e| matches!(e, E::TooLong { kind: None, .. })),
        ("control one byte over its cap", head(65_533, 0), |e| {
            matches!(e, E::TooLong { kind: Some(FrameKind::Control), len: 65_537, max: 65_536 })
        }),
        ("BLOCO one byte over its cap", head(13 + 262_144 + 1, 1), |e| {
            matches!(e, E::TooLong { kind: Some(FrameKind::Block), .. })
        }),
        ("METADADOS one byte over its cap", head(23 + 65_536 + 1, 2), |e| {
            matches!(e, E::TooLong { kind: Some(FrameKind::Metadata), .. })
        }),
        ("unknown kind", head(9, 3), |e| matches!(e, E::UnknownKind { kind: 3 })),
        ("too short for its header", head(12, 1), |e| matches!(e, E::TooShort { .. })),
        ("len below the frame's", block(1), |e| matches!(e, E::LengthsDiffer { .. })),
        ("more promised than follows", control(b"{\"tipo\":\"VIVO\"}")[..9].to_vec(), |e| {
            matches!(e, E::Truncated { got: 9 })
        }),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), |e| {
            matches!(e, E::UnknownKind { kind: b'/' })
        }),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), |e| {
            matches!(e, E::TooLong { kind: Some(FrameKind::Control), .. })
        }),
        ("64 KiB of zeros", vec![0; 65_536], |e| matches!(e, E::Empty)),
    ];
    for (what, stream, is_it) in rows {
        let (frames, end) = read(&stream);
        assert!(frames.is_empty(), "{what}");
        match end {
            Err(WireError::Frame(error)) => assert!(is_it(&error), "{what}: {error:?}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn bad_messages_are_refused_each_with_its_own_reason() {
    use MessageError as E;
    let deep = format!("{{\"tipo\":\"VIVO\",\"a\":{}{}}}", "[".repeat(8), "]".repeat(8));
    let request = |piece: &str| format!(r#"{{"tipo":"PEDIDO","blocos":[[{piece},0,1]]}}"#);
    let field = |fault| E::Field { tipo: "PEDIDO", field: "blocos", fault };
    let rows: [(&str, Vec<u8>, MessageError); 14] = [
        ("not UTF-8", b"{\"tipo\":\"\xff\"}".to_vec(), E::NotUtf8 { at: 9 }),
        ("not JSON", b"{\"tipo\":\"VIVO\",}".to_vec(), E::NotJson { at: 15 }),
        ("empty", Vec::new(), E::NotJson { at: 0 }),
        ("trailing bytes", b"{\"tipo\":\"VIVO\"}{}".to_vec(), E::TrailingBytes { at: 15 }),
        ("an array at the top", b"[{\"tipo\":\"VIVO\"}]".to_vec(), E::NotAnObject),
        ("depth 9", deep.into_bytes(), E::TooDeep { at: 26 }),
        ("no tipo", b"{\"id\":1}".to_vec(), E::TipoMissing),
        ("tipo twice", b"{\"tipo\":\"VIVO\",\"tipo\":\"VIVO\"}".to_vec(), E::TipoTwice),
        ("tipo a number", b"{\"tipo\":7}".to_vec(), E::TipoNotText),
        ("piece -1", request("-1").into_bytes(), field(FieldFault::Negative)),
        ("piece 1.5", request("1.5").into_bytes(), field(FieldFault::Fraction)),
        ("piece 1e999", request("1e999").into_bytes(), field(FieldFault::Exponent)),
        ("piece \"7\"", request("\"7\"").into_bytes(), field(FieldFault::NotANumber)),
        (
            "piece 2^64",
            request("18446744073709551616").into_bytes(),
            field(FieldFault::TooLarge { max: u64::MAX }),
        ),
    ];
    for (what, body, reason) in rows {
        let (frames, end) = read(&control(&body));
        assert!(frames.is_empty(), "{what}");
        let error = end.expect_err(what);
        assert_eq!(error.penalty(), Penalty::Close, "{what}");
        match error {
            WireError::Message(error) => assert_eq!(error, reason, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn unusual_but_valid_messages_are_accepted() {
    let deep = format!("{{\"tipo\":\"VIVO\",\"a\":{}{}}}", "[".repeat(7), "]".repeat(7));
    for (what, body, message) in [
        ("unknown tipo", r#"{"tipo":"FUTURO","blocos":-1}"#, Message::Unknown),
        ("unknown extra field", r#"{"tipo":"VIVO","x":[{"y":1e999}]}"#, Message::KeepAlive),
        ("depth 8", &deep, Message::KeepAlive),
        ("white space", " {\n\t\"tipo\" : \"VIVO\"\r\n} ", Message::KeepAlive),
    ] {
        let (frames, end) = read(&control(body.as_bytes()));
        assert!(end.is_ok(), "{what}");
        assert_eq!(frames, [Frame::Control(message)], "{what}");
    }
}

#[test]
fn numbers_outside_the_share_pass_the_wire_whole_and_fail_the_share() {
    let geometry = Geometry::new(piece_size(), [10 * 16384]).expect("a share");
    for piece in [10, u64::from(u32::MAX), (1 << 53) + 1, u64::MAX] {
        let json = format!(r#"{{"tipo":"PEDIDO","blocos":[[{piece},0,1]]}}"#);
        let Ok(Message::Request(blocks)) = parse_message(json.as_bytes()) else { panic!("{json}") };
        let [block] = blocks[..] else { panic!("{json}") };
        assert_eq!(block.piece, piece);
        assert_eq!(geometry.block(block.piece, block.offset, block.len), None);
    }
}

#[test]
fn a_length_split_over_many_packets_is_accepted() {
    let frame = control(br#"{"tipo":"VIVO"}"#);
    let mut codec = FrameCodec::new(established());
    let mut src = BytesMut::new();
    for (at, byte) in frame.iter().enumerate() {
        src.extend_from_slice(&[*byte]);
        let decoded = codec.decode(&mut src).expect("no error");
        assert_eq!(decoded.is_some(), at + 1 == frame.len());
    }
}

#[test]
fn a_stranger_may_send_short_control_frames_and_nothing_else() {
    let limits = FrameLimits::before_handshake();
    for (name, bytes) in frames_of_the_page() {
        let binary = bytes[4] != 0;
        assert_eq!(parse_head(&bytes, &limits).is_err(), binary, "{name}");
    }
}

// ---- the seeds of the fuzz targets ----

/// What each fuzz target starts from, made of the page's examples: target, name, bytes.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut conversation = Vec::new();
    for (name, bytes) in frames_of_the_page() {
        conversation.extend(&bytes);
        match bytes[4] {
            0 => seeds.push(("message_decode", name.clone(), bytes[5..].to_vec())),
            1 => seeds.push(("block_header", name.clone(), bytes[5..17].to_vec())),
            _ => seeds.push(("block_header", name.clone(), bytes[5..27].to_vec())),
        }
        seeds.push(("frame_decode", name, bytes));
    }
    // The sum of all is what a session may hear, in some order.
    seeds.push(("frame_decode", "conversation".into(), conversation));
    let content = content_of_the_page();
    seeds.push(("manifest_decode", "zeros".into(), hex(&content["manifest"])));
    seeds.push(("ticket_parse", "zeros".into(), content["ticket"].clone().into_bytes()));
    let links = [("downloading", we_download()), ("uploading", they_download())];
    for (name, ops) in links {
        seeds.push(("peer_session_ops", name.into(), ops.concat()));
    }
    seeds.push((
        "peer_session_ops",
        "both".into(),
        [we_download(), they_download()].concat().concat(),
    ));
    seeds
}

/// One step of the target `peer_session_ops`, in the bytes that `arbitrary` makes it of: that
/// one more follows, which variant, the variant's fields.
fn op(variant: &str, fields: &[&[u8]]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/targets/peer_session_ops.rs");
    let source = fs::read_to_string(path).expect("the target's source");
    let (_, body) = source.split_once("enum Op {\n").expect("its steps");
    let (body, _) = body.split_once("\n}").expect("their end");
    let name_of = |line: &str| line.trim().split([' ', '(', ',']).next().map(str::to_owned);
    let variants: Vec<_> = body.lines().filter_map(name_of).collect();
    let number = variants.iter().position(|name| name == variant);
    let number = number.unwrap_or_else(|| panic!("no step {variant}")) as u64;
    // The smallest `u32` of which `(it * count) >> 32` is the variant's number.
    let chosen = (number << 32).div_ceil(variants.len() as u64) as u32;
    [&[1], &chosen.to_le_bytes()[..], &fields.concat()].concat()
}

/// A list's bytes: each element after a 1, then a 0.
fn list(elements: &[&[u8]]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        elements.iter().flat_map(|element| [&[1], *element].concat()).collect();
    bytes.push(0);
    bytes
}

fn far(block: RawBlock) -> Vec<u8> {
    [block.piece, block.offset, block.len].map(u64::to_le_bytes).concat()
}

/// The page's message of this name, as its steps: one for each block or run of it.
fn ops_of(name: &str) -> Vec<Vec<u8>> {
    let run = |run: &Run| [run.first as u8, run.count as u8];
    let runs = |runs: &[Run]| {
        let pairs: Vec<_> = runs.iter().map(run).collect();
        list(&pairs.iter().map(|pair| &pair[..]).collect::<Vec<_>>())
    };
    let half = |block: &RawBlock| [block.piece as u8, u8::from(block.offset > 0)];
    let plain = |number| vec![op("Plain", &[&[number]])];
    match expected().remove(name) {
        Some(Frame::Control(message)) => match message {
            Message::Have { holdings: Holdings::Bitmap(bits), .. } => {
                // The target's share has 20 pieces, the page's 10.
                let bits: Vec<_> = bits.iter().chain(&[0]).map(std::slice::from_ref).collect();
                vec![op("Bitmap", &[&list(&bits)])]
            }
            Message::Have { holdings: Holdings::News(news), .. } => {
                vec![op("News", &[&runs(&news)])]
            }
            Message::Withdraw(gone) => vec![op("Withdraw", &[&runs(&gone)])],
            Message::Suggest(pieces) => vec![op("Suggest", &[&runs(&pieces)])],
            Message::Request(blocks) => {
                blocks.into_iter().map(|block| op("RequestFar", &[&far(block)])).collect()
            }
            Message::Cancel(blocks) => {
                let halves: Vec<_> = blocks.iter().map(half).collect();
                let halves: Vec<_> = halves.iter().map(|half| &half[..]).collect();
                vec![op("Cancel", &[&list(&halves)])]
            }
            // By its place among those asked for.
            Message::Refuse { .. } => vec![op("Refused", &[&[0]])],
            Message::Goodbye { .. } => plain(7),
            Message::Interested => plain(0),
            Message::NotInterested => plain(1),
            Message::Choke => plain(2),
            Message::Unchoke => plain(3),
            Message::KeepAlive => plain(4),
            Message::Lanes(_) => plain(6),
            other => panic!("no step says {other:?}"),
        },
        other => panic!("no step says {other:?}"),
    }
}

/// We fetch what the other side has: its messages of the page, and what we do about them.
fn we_download() -> Vec<Vec<u8>> {
    let block = |done: u8| op("NextBlock", &[&16384u16.to_le_bytes(), &[done]]);
    let theirs = |names: &[&str]| names.iter().flat_map(|name| ops_of(name)).collect::<Vec<_>>();
    [
        theirs(&["have-bitmap", "have-news", "unchoke", "suggest"]),
        vec![op("Ask", &[&[0]]), block(1), op("Wait", &[&250u16.to_le_bytes()]), block(0)],
        theirs(&["withdraw", "refuse"]),
        vec![op("Ask", &[&[7]]), block(1), op("GiveUp", &[&[7]])],
        theirs(&["choke", "keep-alive", "goodbye"]),
    ]
    .concat()
}

/// The other side fetches from us, among it the page's request and one for a piece we hold.
fn they_download() -> Vec<Vec<u8>> {
    let theirs = |names: &[&str]| names.iter().flat_map(|name| ops_of(name)).collect::<Vec<_>>();
    [
        theirs(&["interested", "lanes", "request"]),
        vec![op("Request", &[&list(&[&[8, 0], &[8, 1], &[6, 0]])]), op("Send", &[])],
        theirs(&["cancel"]),
        vec![op("Cancel", &[&list(&[&[8, 1]])]), op("Send", &[]), op("Choke", &[&[1]])],
        theirs(&["not-interested"]),
    ]
    .concat()
}

/// With `MINIBIT_WRITE_SEEDS` set this writes the seeds instead of comparing them.
#[test]
fn the_fuzz_targets_start_from_the_examples_of_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let write = std::env::var_os("MINIBIT_WRITE_SEEDS").is_some();
    for (target, name, bytes) in seeds() {
        let path: PathBuf = root.join(target).join(&name);
        if write {
            fs::create_dir_all(root.join(target)).expect("a directory for seeds");
            fs::write(&path, &bytes).expect("a seed");
        }
        let there = fs::read(&path).unwrap_or_default();
        assert_eq!(
            there, bytes,
            "{target}/{name} is not the page's; run this test with MINIBIT_WRITE_SEEDS=1"
        );
    }
}
