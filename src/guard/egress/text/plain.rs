//! Runs of bytes that mean nothing here, so that most of a text is passed over quickly.

/// Bytes that are looked at together.
const STEP: usize = 8;

/// Bytes at the front that mean nothing here.
pub(super) fn plain(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(step) = bytes.get(at..).and_then(<[u8]>::first_chunk::<STEP>) {
        // All of them, whatever the first says: no branch until the last.
        if step.iter().fold(false, |speaks, byte| speaks | SPEAKS[usize::from(*byte)]) {
            let end = at + STEP;
            at = silent(bytes, at, end);
            if at < end {
                return at;
            }
        } else {
            at += STEP;
        }
    }
    silent(bytes, at, bytes.len())
}

/// Goes on from `at` up to the first byte before `end` that means something.
fn silent(bytes: &[u8], mut at: usize, end: usize) -> usize {
    while let Some(byte) = bytes.get(at).filter(|_| at < end) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_something_speaks() {
        for text in [
            "",
            "abc",
            "a full stop. And www.x",
            "0123456 8: x",
            "0123456: x",
            "www.",
            "no end at all, whatever comes.",
            "ü\u{2028}ß\n",
        ] {
            for from in (0..text.len()).filter(|from| text.is_char_boundary(*from)) {
                let rest = &text[from..];
                assert_eq!(plain(rest), silent(rest.as_bytes(), 0, rest.len()), "{rest}");
            }
        }
    }
}
