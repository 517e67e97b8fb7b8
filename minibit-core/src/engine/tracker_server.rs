//! stub
use crate::tracker::Rules;
use crate::wire::Register;
use bytes::BytesMut;
use std::net::SocketAddr;
use tokio::net::TcpStream;
#[derive(Debug, Clone)]
pub(super) struct TrackerServer;
impl TrackerServer {
    pub(super) fn new(_r: Rules, _seed: u64) -> Self {
        Self
    }
    pub(super) async fn serve(&self, _s: TcpStream, _i: BytesMut, _r: Register, _a: SocketAddr) {}
}
