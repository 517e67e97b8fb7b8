//! What the wire costs: heads, control messages, whole frames.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use minibit_core::types::{PeerId, limits};
use minibit_core::wire::{
    BlockHeader, FrameCodec, FrameLimits, Holdings, Message, PeerAddr, RawBlock, Run, parse_head,
    parse_message,
};
use tokio_util::codec::{Decoder, Encoder};

/// Bytes of a control frame before its JSON.
const PREFIX_LEN: usize = 5;

fn established() -> FrameLimits {
    FrameLimits::established(limits::PIECES_MAX, limits::BLOCK_LEN_MAX)
}

fn request(blocks: u64) -> Message {
    let block = |number: u64| RawBlock {
        piece: 4000 + number / 4,
        offset: number % 4 * 262_144,
        len: 262_144,
    };
    Message::Request((0..blocks).map(block).collect())
}

fn frame(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out
}

fn heads(criterion: &mut Criterion) {
    let limits = established();
    let header = BlockHeader { piece: 4711, offset: 262_144, len: 262_144 };
    let mut group = criterion.benchmark_group("head");
    group.bench_function("encode_bloco", |bencher| {
        bencher.iter(|| black_box(&header).encode_frame_head());
    });
    let head = header.encode_frame_head();
    group.bench_function("parse_bloco", |bencher| {
        bencher.iter(|| parse_head(black_box(&head), &limits));
    });
    let vivo = frame(&Message::KeepAlive);
    group.bench_function("parse_control", |bencher| {
        bencher.iter(|| parse_head(black_box(&vivo), &limits));
    });
    group.finish();
}

fn messages(criterion: &mut Criterion) {
    let id = PeerId([0xa5; 16]);
    let peer = PeerAddr { id, ip: [192, 0, 2, 7].into(), port: 4001 };
    let bitmap = vec![0xa5; limits::PIECES_MAX as usize / 8];
    let cases = [
        ("vivo", Message::KeepAlive),
        ("pedido_1", request(1)),
        ("pedido_256", request(256)),
        (
            "estoque_news",
            Message::Have { id, holdings: Holdings::News(vec![Run { first: 4711, count: 3 }]) },
        ),
        ("estoque_1M_pieces", Message::Have { id, holdings: Holdings::Bitmap(bitmap) }),
        ("lista_peers_50", Message::PeerList { peers: vec![peer; 50], interval: 30 }),
    ];
    let mut group = criterion.benchmark_group("message");
    for (name, message) in &cases {
        let frame = frame(message);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_with_input(BenchmarkId::new("encode", name), message, |bencher, message| {
            let mut out = BytesMut::with_capacity(frame.len());
            bencher.iter(|| {
                out.clear();
                black_box(message).encode(&mut out);
            });
        });
        group.bench_with_input(BenchmarkId::new("parse", name), &frame, |bencher, frame| {
            bencher.iter(|| parse_message(black_box(&frame[PREFIX_LEN..])));
        });
    }
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let mut codec = FrameCodec::new(established());
    let message = request(8);
    group.bench_function("round_trip_pedido_8", |bencher| {
        let mut buffer = BytesMut::with_capacity(4096);
        bencher.iter(|| {
            codec.encode(black_box(&message), &mut buffer).expect("a message");
            codec.decode(&mut buffer).expect("a frame")
        });
    });
    let header = BlockHeader { piece: 1, offset: 0, len: limits::BLOCK_LEN_MAX };
    let mut block = BytesMut::from(&header.encode_frame_head()[..]);
    block.resize(block.len() + limits::BLOCK_LEN_MAX as usize, 0x5a);
    group.throughput(Throughput::Bytes(block.len() as u64));
    // The copy into the buffer stands for the socket's read.
    group.bench_function("decode_bloco_256K", |bencher| {
        let mut buffer = BytesMut::with_capacity(block.len());
        bencher.iter(|| {
            buffer.reserve(block.len());
            buffer.extend_from_slice(&block);
            codec.decode(&mut buffer).expect("a frame")
        });
    });
    group.finish();
}

criterion_group!(benches, heads, messages, codec);
criterion_main!(benches);
