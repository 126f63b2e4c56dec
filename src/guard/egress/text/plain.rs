//! Runs of bytes that mean nothing here, so that most of a text is passed over quickly.

/// Bytes at the front that mean nothing here.
pub(super) fn plain(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if SPEAKS[usize::from(*byte)] {
            // A full stop only where it may follow `www`.
            let front = bytes.get(at.saturating_sub(3)..at).unwrap_or_default();
            if *byte != b'.' || at < 3 || front.eq_ignore_ascii_case(b"www") {
                break;
            }
        }
        at += 1;
    }
    at
}

/// Bytes that are looked at one by one.
static SPEAKS: [bool; 256] = {
    let mut speaks = [false; 256];
    let (marks, mut at) = (b":/\\&<[]`\n\r.", 0);
    while at < marks.len() {
        speaks[marks[at] as usize] = true;
        at += 1;
    }
    speaks
};
