//! What a stranger on the network learns of its viewers from mDNS.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::Host;
use socket2::{Domain, Protocol, Socket, Type};

use crate::wait_source;
use e2e::lan_testbed::{BROADCASTER, LanTestbed, VIEWERS};

/// A viewer asks which broadcasts there are, and does not say which it knows: neither in a question nor among known answers (RFC 6762 §7.1), at the
/// start, while it watches, and when its path fails. Answers arrive whole here: after one that was lost in part, the next query names what it held.
#[test]
fn no_query_names_the_broadcast_that_a_viewer_follows() -> Result<()> {
    let testbed = LanTestbed::build()?;
    let stranger = listen(&testbed.viewers[1], VIEWERS[1])?;
    let mut broadcaster = testbed.broadcast(&[])?;
    let mut viewer = testbed.watch(0, &[])?;
    wait_source(&mut viewer, "LAN peer")?;
    testbed.direct.blackhole()?;
    wait_source(&mut viewer, "relay")?;
    std::thread::sleep(OUTAGE);
    testbed.direct.heal()?;
    wait_source(&mut viewer, "LAN peer")?;
    viewer.finish()?;
    broadcaster.stop()?;

    let packets = packets(&stranger)?;
    let from = |host: Ipv4Addr| {
        packets.iter().filter(move |(source, _)| *source == IpAddr::V4(host)).map(|(_, packet)| packet)
    };
    let announced: BTreeSet<_> = from(BROADCASTER).flat_map(|packet| instances(packet)).collect();
    ensure!(!announced.is_empty(), "the broadcaster announced nothing: {} packets", packets.len());
    ensure!(from(VIEWERS[0]).next().is_some(), "the viewer asked nothing, so this shows nothing");
    for packet in from(VIEWERS[0]) {
        let named = instances(packet);
        ensure!(named.is_empty(), "the viewer named {named:?}; announced are {announced:?}");
    }
    Ok(())
}

/// A socket of this host that receives all mDNS packets of its network.
fn listen(host: &Host, address: Ipv4Addr) -> Result<UdpSocket> {
    host.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_recv_buffer_size(1 << 20)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5353)).into())?;
        socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &address)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(socket.into())
    })?
}

/// The packets received so far, with their senders.
fn packets(socket: &UdpSocket) -> Result<Vec<(IpAddr, Vec<u8>)>> {
    let (mut packets, mut buffer) = (Vec::new(), [0; 9000]);
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, source)) => packets.push((source.ip(), buffer[..length].to_vec())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(packets),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The labels in a DNS message that are names of broadcasts: 16 characters of base32. Host names of broadcasters have the same form.
fn instances(packet: &[u8]) -> BTreeSet<String> {
    let is_name = |label: &[u8]| label.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
    let labels = packet.windows(17).filter(|window| window[0] == 16 && is_name(&window[1..]));
    labels.map(|label| String::from_utf8_lossy(&label[1..]).into_owned()).collect()
}

/// Longer than a stalled path is kept, so that it is discovered again.
const OUTAGE: Duration = Duration::from_secs(4);
