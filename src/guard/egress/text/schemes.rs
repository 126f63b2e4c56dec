//! Schemes, and what may follow them where a URL begins.

/// Schemes that the URL Standard takes for hierarchical with fewer than two slashes, or with
/// backslashes.
pub(in crate::guard::egress) const SPECIAL: [&str; 6] =
    ["http", "https", "ws", "wss", "ftp", "file"];
/// Schemes without slashes that make a reader connect or run something when it opens them.
const OPAQUE: [&str; 43] = [
    "blob",
    "callto",
    "cmd",
    "data",
    "facetime",
    "feed",
    "filesystem",
    "geo",
    "git",
    "intent",
    "irc",
    "itms",
    "jar",
    "javascript",
    "ldap",
    "livescript",
    "magnet",
    "mailto",
    "market",
    "mocha",
    "msteams",
    "news",
    "nntp",
    "obsidian",
    "search",
    "search-ms",
    "shell",
    "shortcuts",
    "sip",
    "sips",
    "skype",
    "slack",
    "sms",
    "smsto",
    "ssh",
    "steam",
    "tel",
    "vbscript",
    "view-source",
    "vscode",
    "xmpp",
    "zoommtg",
    "zoomus",
];
/// What others like them begin with.
const OPAQUE_FRONT: &str = "ms-";
/// Those of them that are links out in the text as well (GFM section 6.9).
pub(super) const OPAQUE_ANYWHERE: [&str; 2] = ["mailto", "xmpp"];

/// Whether a scheme without slashes makes a reader connect or run something.
pub(super) fn is_opaque(scheme: &str) -> bool {
    OPAQUE.contains(&scheme) || scheme.starts_with(OPAQUE_FRONT)
}

/// The longest of those schemes with which a word ends.
pub(super) fn known_end(word: &str) -> Option<&'static str> {
    SPECIAL
        .into_iter()
        .chain(OPAQUE)
        .filter(|known| word.ends_with(known))
        .max_by_key(|known| known.len())
}

/// Whether something can follow a scheme and its colon that leads elsewhere without two slashes.
/// Others' colons need not wait.
pub(super) fn speaks(scheme: &str) -> bool {
    SPECIAL.contains(&scheme)
        || is_opaque(scheme)
        || OPAQUE_ANYWHERE.iter().any(|known| scheme.ends_with(known))
}
