//! How secrets and addresses may be written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// A host, as it stands in a URL, and its port.
    Host {
        /// Name or address; an IPv6 address in brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// The path of a Unix socket.
    Socket(String),
}

impl UpstreamAddress {
    /// The forms that errors name it by: `host:port`, or as a URL.
    pub(super) fn forms(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Host { host, port } => [
                format!("{host}:{port}"),
                format!("http://{host}"),
                format!("https://{host}"),
                format!("http://{host}:{port}"),
                format!("https://{host}:{port}"),
            ]
            .map(String::into_bytes)
            .to_vec(),
            Self::Socket(path) => vec![path.clone().into_bytes()],
        }
    }
}

/// True where an address is not a part of another name or number.
pub(super) fn stands_alone(text: &[u8], from: usize, to: usize) -> bool {
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let before = from.checked_sub(1).and_then(|place| text.get(place));
    let dotted =
        |place: usize| text.get(place) == Some(&b'.') && text.get(place + 1).is_some_and(in_name);
    // The port that follows `http://host` may be another one: still the same host.
    !before.is_some_and(|byte| in_name(byte) || *byte == b'.')
        && !text.get(to).is_some_and(in_name)
        && !dotted(to)
}

/// A secret as it is, and what base64 makes of it wherever it begins in what is encoded, in both alphabets (RFC 4648 sections 4 and 5).
/// The characters that what stands before and behind has a part in are left out.
pub(super) fn of_secret(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec()];
    for before in 0..3 {
        let encoded = STANDARD_NO_PAD.encode([&vec![0; before][..], secret].concat());
        let from = (before * 8).div_ceil(6);
        let to = (before + secret.len()) * 8 / 6;
        let standard = encoded.as_bytes().get(from..to).unwrap_or_default().to_vec();
        let url = standard.iter().map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        });
        forms.push(url.collect());
        forms.push(standard);
    }
    forms.sort();
    forms.dedup();
    forms
}
