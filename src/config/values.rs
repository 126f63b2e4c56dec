//! Kinds of values that several tables have: one of several words, networks, secrets.

use std::path::Path;

use super::section::Section;
use crate::secret::SecretRef;

/// One of several words, as the value that belongs to it.
pub(super) fn choice<T: Copy>(
    section: &Section<'_>,
    key: &'static str,
    choices: &[(&str, T)],
) -> Option<T> {
    let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
    section.parsed(key, &names.join(" or "), |text| {
        let (_, value) = choices.iter().find(|(name, _)| *name == text)?;
        Some(*value)
    })
}

/// A network, or a single address as a network with one address.
fn network(text: &str) -> Option<ipnet::IpNet> {
    if let Ok(network) = text.parse() {
        return Some(network);
    }
    let address: std::net::IpAddr = text.parse().ok()?;
    Some(address.into())
}

/// An array of networks. A single address is a network with one address.
pub(super) fn networks(section: &Section<'_>, key: &'static str) -> Vec<ipnet::IpNet> {
    let mut networks = Vec::new();
    for text in section.texts(key) {
        match network(&text) {
            Some(network) => networks.push(network),
            None => {
                section.fault(key, format!("{text:?} is not a network such as \"10.0.0.0/28\""))
            }
        }
    }
    networks
}

/// A reference to a secret. The config file itself must not contain secrets.
pub(super) fn secret(section: &Section<'_>, key: &'static str, base: &Path) -> Option<SecretRef> {
    section.parsed(
        key,
        "\"file:PATH\", \"env:NAME\" or \"cred:NAME\"; the secret itself must not be in the config",
        |text| SecretRef::read(text, base),
    )
}
