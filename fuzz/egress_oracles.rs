//! The properties that the fuzz targets of egress check for any input. The fuzzer runs them, and an
//! ordinary test runs them over `fuzz/corpus`.
#![allow(dead_code, reason = "each target uses one of them")]

use std::sync::LazyLock;

use token_shield::guard::egress::destination::{Destination, Host};
use token_shield::guard::egress::policy::{
    EgressPolicy, ListEntry, Lists, SelfEndpoints, TokenRestrictions, Use,
};
use token_shield::guard::egress::rendered::{LoadUse, RenderedText, Scope, Verdict};

/// The policy of all targets.
static JUDGE: LazyLock<EgressPolicy> = LazyLock::new(|| {
    let lines = [
        "good.example",
        "*.good.example:8443",
        "good.example:80",
        "127.0.0.1:8000",
        "[2606:4700::1111]:443",
    ];
    let list: Vec<ListEntry> = lines.iter().filter_map(|line| line.parse().ok()).collect();
    EgressPolicy::new(
        Lists { media: list.clone(), links: list.clone(), tunnel: list, networks: Vec::new() },
        SelfEndpoints::default(),
    )
});

/// Checks the policy. A destination that is written and read again is the same. The parser of the
/// URL Standard agrees with it. A controlled destination is on the list by a second, simple check.
pub(crate) fn policy(bytes: &[u8]) {
    let Ok(url) = std::str::from_utf8(bytes) else { return };
    let judged = JUDGE.evaluate(Use::Media, url, &TokenRestrictions::default());
    let Ok(read) = Destination::read(url) else {
        assert!(judged.is_err(), "{url:?} is controlled and cannot be read");
        return;
    };
    assert_eq!(Destination::read(&format!("{read}/")).as_ref(), Ok(&read), "{url:?}");
    let other = url::Url::parse(url).expect("what is read is a URL");
    assert_eq!(other.host_str().map(str::to_owned), Some(read.host.to_string()), "{url:?}");
    assert_eq!(other.port_or_known_default(), Some(read.port), "{url:?}");
    if judged.is_ok() {
        let host = read.host.to_string();
        let listed = match read.port {
            80 => host == "good.example",
            443 => host == "good.example" || host == "[2606:4700::1111]",
            8000 => host == "127.0.0.1",
            8443 => host.ends_with(".good.example"),
            _ => false,
        };
        assert!(listed, "{url:?} leads to {read}");
    }
    if let Host::Name(name) = &read.host {
        assert!(name.is_ascii() && *name == name.to_ascii_lowercase());
    }
}

/// The output of the filter for a text in pieces, under a verdict.
fn through(
    pieces: &[&str],
    scope: Scope,
    mut verdict: impl FnMut(LoadUse, Result<&str, &str>) -> Verdict,
) -> String {
    let (mut filter, mut out) = (RenderedText::new(scope), String::new());
    for piece in pieces {
        filter.push(piece, &mut out, &mut verdict);
    }
    filter.pause(&mut out, &mut verdict);
    out
}

/// The verdict of [`JUDGE`].
fn good(url: Result<&str, &str>) -> Verdict {
    let passes =
        url.is_ok_and(|url| JUDGE.evaluate(Use::Links, url, &TokenRestrictions::default()).is_ok());
    if passes { Verdict::Pass } else { Verdict::Strip }
}

/// The text in pieces. `seed` determines their length.
fn cut(text: &str, seed: u8) -> Vec<&str> {
    let size = usize::from(seed % 7) + 1;
    let places: Vec<usize> =
        text.char_indices().map(|(place, _)| place).step_by(size).chain([text.len()]).collect();
    places.windows(2).filter_map(|pair| text.get(pair[0]..pair[1])).collect()
}

/// Checks the filter. The output does not depend on how the text is cut. What may pass is unchanged
/// byte for byte. A text without an address does not change. The output loads nothing from an
/// uncontrolled host.
pub(crate) fn filter(bytes: &[u8]) {
    let Some((seed, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let scope = if seed & 0x80 == 0 { Scope::Loads } else { Scope::Links };
    let judge = |load_use: LoadUse, url: Result<&str, &str>| match (scope, load_use) {
        (Scope::Loads, LoadUse::Linked) => Verdict::Pass,
        (_, LoadUse::Linked | LoadUse::Loaded | LoadUse::Defined) => good(url),
    };
    let whole = through(&[text], scope, judge);
    let pieces = cut(text, *seed);
    assert_eq!(through(&pieces, scope, judge), whole, "{text:?} in {pieces:?}");
    assert_eq!(through(&[text], scope, |_, _| Verdict::Pass), text);
    assert_eq!(through(&pieces, Scope::Nothing, |_, _| Verdict::Pass), text);
    if !text.contains([':', '/', '\\', '&', '<', '[']) && !text.contains("www.") {
        assert_eq!(whole, text);
    }
    let mut left = 0;
    through(&[&whole], scope, |load_use, url| {
        left += usize::from(
            judge(load_use, url) == Verdict::Strip && url.is_ok() && load_use == LoadUse::Loaded,
        );
        Verdict::Pass
    });
    assert_eq!(left, 0, "{text:?} became {whole:?}");
}
