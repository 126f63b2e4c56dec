//! Runs of bytes without a meaning here, so that most of a text is passed over quickly.

/// Controls up to here are left out by some readers wherever they are.
const DROPPED_MAX: u8 = 3;
/// Bytes that are looked at together.
const STEP: usize = 16;

/// Bytes at the front that have no meaning here.
pub(super) fn plain(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut wide) = (0, true);
    while let Some(step) = bytes.get(at..).and_then(<[u8]>::first_chunk::<STEP>) {
        let (speaks, stops, words) = looked_at(step);
        // A full stop speaks after `www`, which may be in the step before.
        if speaks || (stops && (words || wide)) {
            let end = at + STEP;
            at = silent(bytes, at, end);
            if at < end {
                return at;
            }
        } else {
            at += STEP;
        }
        wide = words;
    }
    silent(bytes, at, bytes.len())
}

/// 1 for equal bytes, 0 for others: the loop below has no branches.
fn equal(byte: u8, other: u8) -> u8 {
    u8::from(byte == other)
}

/// Whether something in it speaks, whether a full stop is in it, and whether a `w` does. All of
/// them are looked at, whatever the first ones say: so they are looked at together.
fn looked_at(step: &[u8; STEP]) -> (bool, bool, bool) {
    let (mut speaks, mut stops, mut words) = (0, 0, 0);
    for byte in step {
        speaks |= equal(*byte, b':')
            | equal(*byte, b'/')
            | equal(*byte, b'\\')
            | equal(*byte, b'&')
            | equal(*byte, b'<')
            | equal(*byte, b'>')
            | equal(*byte, b'[')
            | equal(*byte, b']')
            | equal(*byte, b'`')
            | equal(*byte, b'{')
            | equal(*byte, b'$')
            | equal(*byte, b'\n')
            | equal(*byte, b'\r')
            | u8::from(*byte <= DROPPED_MAX);
        stops |= equal(*byte, b'.');
        words |= u8::from(*byte | 0x20 == b'w');
    }
    (speaks != 0, stops != 0, words != 0)
}

/// Continues from `at` up to the first byte before `end` that means something.
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
    let (marks, mut at) = (b":/\\&<>[]`{$\n\r.\0\x01\x02\x03", 0);
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
