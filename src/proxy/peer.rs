//! The client's address: the address of the connection or, from a trusted proxy, the address that
//! the proxy names.
//!
//! Supported are the PROXY protocol version 2 (haproxy's `doc/proxy-protocol.txt`, sections 2.2 and
//! 2.3) and `X-Forwarded-For`. Both are accepted from trusted addresses only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderMap;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The largest address block with TLVs of a PROXY header, in bytes.
const LENGTH_MAX: usize = 2048;

/// Whether `peer` is a trusted proxy.
#[must_use]
pub fn trusted(peer: IpAddr, proxies: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    proxies.iter().any(|network| network.contains(&peer))
}

/// The error of a malformed PROXY header.
fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The source address at the beginning of an address block.
///
/// # Errors
/// If the block is shorter.
fn address<const N: usize>(block: &[u8]) -> io::Result<[u8; N]> {
    match block.first_chunk() {
        Some(address) => Ok(*address),
        None => Err(invalid("a short address")),
    }
}

/// Reads the PROXY header at the beginning of a trusted proxy's connection.
///
/// # Errors
/// If the header is malformed.
pub async fn proxied(stream: &mut (impl AsyncRead + Unpin), peer: IpAddr) -> io::Result<IpAddr> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let [.., command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !head.starts_with(SIGNATURE) || command >> 4 != 2 || length > LENGTH_MAX {
        return Err(invalid("not a PROXY protocol version 2 header"));
    }
    // The whole block is read before it is interpreted: the bytes after it belong to TLS or HTTP.
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match (command & 15, family >> 4) {
        // LOCAL: the proxy's own connection, such as a health check.
        (0, _) => Ok(peer),
        (1, 1) => {
            let address: [u8; 4] = address(&rest)?;
            Ok(IpAddr::V4(Ipv4Addr::from(address)))
        }
        (1, 2) => {
            let address: [u8; 16] = address(&rest)?;
            Ok(IpAddr::V6(Ipv6Addr::from(address)).to_canonical())
        }
        _ => Err(invalid("an address family that is not IP")),
    }
}

/// Whether a connection begins with a PROXY header, and not with TLS or HTTP.
#[must_use]
pub fn begins_proxy(first: &[u8]) -> bool {
    first.len() >= SIGNATURE.len() && first.starts_with(SIGNATURE)
}

/// The client that a trusted proxy forwards for: the rightmost address of `X-Forwarded-For` that is
/// no trusted proxy. From other peers the header has no effect.
#[must_use]
pub fn forwarded(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    if proxies.is_empty() || !trusted(peer, proxies) {
        return peer;
    }
    let mut hops: Vec<&str> = Vec::new();
    for line in headers.get_all("x-forwarded-for") {
        let Ok(line) = line.to_str() else { continue };
        hops.extend(line.split(','));
    }
    let mut client = peer;
    // From the right: each proxy appends the address that it saw. Entries further left come from
    // the client and can be forged.
    while let Some(hop) = hops.pop() {
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !trusted(client, proxies) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[track_caller]
    fn check(peer: &str, header: &'static str, expect: &str) {
        let proxies = ["10.0.0.0/28".parse().expect("network")];
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static(header));
        let client = forwarded(peer.parse().expect("address"), &headers, &proxies);
        assert_eq!(client, expect.parse::<IpAddr>().expect("address"));
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        check("10.0.0.1", "203.0.113.9", "203.0.113.9");
        check("10.0.0.1", "198.51.100.1, 203.0.113.9, 10.0.0.2", "203.0.113.9");
        check("192.0.2.1", "203.0.113.9", "192.0.2.1");
        check("10.0.0.1", "garbage", "10.0.0.1");
        check("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9");
    }

    #[tokio::test]
    async fn proxy_headers_are_read_strictly() {
        let mut header = SIGNATURE.to_vec();
        header.extend([0x21, 0x11, 0, 12, 203, 0, 113, 9, 127, 0, 0, 1, 0x1f, 0x90, 0x23, 0x28]);
        let peer = "10.0.0.1".parse().expect("address");
        let read = proxied(&mut &header[..], peer).await.expect("header");
        assert_eq!(read, "203.0.113.9".parse::<IpAddr>().expect("address"));
        header[12] = 0x11;
        assert!(proxied(&mut &header[..], peer).await.is_err());
        assert!(proxied(&mut &b"GET / HTTP/1.1\r\n"[..], peer).await.is_err());
    }
}
