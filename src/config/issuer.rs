//! Converts `[[issuer]]` and `[principal]` to settings.

use std::collections::BTreeMap;
use std::path::Path;

use super::class::caps_alone;
use super::section::Section;
use super::server::target;
use super::values::choice;
use crate::guard::settings::{Caps, Issuer, Jwks};
use crate::proxy::settings::ServerAddress;
use crate::token::{LIST_MAX, PostQuantum, Principals};

/// The maximum of `token_list`. A token of 40 KiB cannot have a longer list.
const LIST_CAP: usize = 4096;

/// The principals that an issuer may speak for. The default of a single issuer is all principals.
/// If there are `several`, each needs the key. A principal's limits, prompt cache and records must
/// belong to one issuer.
fn principals(section: &Section<'_>, several: bool) -> Principals {
    let principals = section.texts("principals");
    if let Some(pattern) = principals.iter().find(|pattern| !is_pattern(pattern)) {
        section.fault(
            "principals",
            format!("{pattern:?} is neither a principal nor a prefix with * at its end"),
        );
    }
    if principals.is_empty() && several {
        let fault = "must name the principals that this issuer may speak for, because there are \
            several issuers (\"team:research\", \"support:*\", or \"*\" for all)";
        section.fault("principals", fault);
    }
    if principals.is_empty() { Principals::all() } else { Principals::of(principals) }
}

/// Whether a text is the name of a principal, or a prefix with `*` at its end.
fn is_pattern(text: &str) -> bool {
    let name = match text.strip_suffix('*') {
        Some(prefix) => prefix,
        None => text,
    };
    !name.contains('*') && text.bytes().all(|byte| byte.is_ascii_graphic()) && text.len() <= 256
}

/// The caps of principals, by issuer and name.
pub(super) type CapsOfPrincipals = BTreeMap<String, BTreeMap<String, Caps>>;

/// The issuers, and the caps of their principals.
pub(super) fn issuers(root: &Section<'_>, base: &Path) -> (Vec<Issuer>, CapsOfPrincipals) {
    let sections = root.tables("issuer");
    let several = sections.len() > 1;
    let mut principals = CapsOfPrincipals::new();
    let mut issuers = Vec::new();
    for section in sections {
        issuers.extend(issuer(section, base, several, &mut principals));
    }
    divide(root, &mut issuers);
    for (name, section) in root.named("principal") {
        principal(root, &issuers, name, caps_alone(section), &mut principals);
    }
    (issuers, principals)
}

/// Gives each issuer the patterns of the other issuers. The same pattern at two issuers is refused,
/// because a principal belongs to one issuer.
fn divide(root: &Section<'_>, issuers: &mut [Issuer]) {
    let patterns: Vec<Vec<String>> =
        issuers.iter().map(|issuer| issuer.principals.own().to_vec()).collect();
    // All patterns were copied before, because each issuer is changed here.
    for (place, issuer) in issuers.iter_mut().enumerate() {
        let mut others = Vec::new();
        for (other, patterns) in patterns.iter().enumerate() {
            if other != place {
                others.extend_from_slice(patterns);
            }
        }
        issuer.principals = issuer.principals.clone().beside(others);
    }
    for (place, one) in issuers.iter().enumerate() {
        for other in issuers.iter().skip(place + 1) {
            let Some(pattern) = one
                .principals
                .own()
                .iter()
                .find(|pattern| other.principals.own().contains(pattern))
            else {
                continue;
            };
            let fault = format!(
                "{} and {} both have {pattern:?} in principals; a principal belongs to one issuer, \
                    the one with the most exact match (\"support:*\" before \"*\")",
                one.iss, other.iss
            );
            // Each pair is reported, so the operator sees all conflicts at once.
            root.fault("issuer", fault);
        }
    }
}

/// Assigns `[principal."NAME"]` to the issuer of the principal.
fn principal(
    root: &Section<'_>,
    issuers: &[Issuer],
    name: String,
    caps: Caps,
    into: &mut CapsOfPrincipals,
) {
    let Some(issuer) = issuers.iter().find(|issuer| issuer.principals.include(&name)) else {
        if !issuers.is_empty() {
            root.fault(
                "principal",
                format!("{name:?}: no [[issuer]] may speak for it (principals)"),
            );
        }
        return;
    };
    // Two sections for one principal would give it two sets of limits.
    let former = into.entry(issuer.iss.clone()).or_default().insert(name.clone(), caps);
    if former.is_some() {
        root.fault("principal", format!("{name:?} already has caps at its [[issuer]]"));
    }
}

/// Reads one `[[issuer]]`; `None` if a required value is missing.
fn issuer(
    section: Section<'_>,
    base: &Path,
    several: bool,
    caps: &mut CapsOfPrincipals,
) -> Option<Issuer> {
    let (iss, aud) = (section.required("iss"), section.required("aud"));
    let namespaces = section.texts("namespaces");
    // There is no default for all namespaces: a second issuer could otherwise speak for the agents
    // of the first.
    if namespaces.is_empty() {
        section.fault(
            "namespaces",
            "must name the namespaces that this issuer may speak for (\"*\" for all)",
        );
    }
    let modes = [
        ("required-root", PostQuantum::RequiredRoot),
        ("required", PostQuantum::Required),
        ("off", PostQuantum::Off),
    ];
    let post_quantum = choice(&section, "pq", &modes).unwrap_or(PostQuantum::RequiredRoot);
    let ttl_max = section.seconds_or("ttl_max", 30 * 86_400);
    let ca = section.path("jwks_ca", base);
    let jwks = match section.text("jwks") {
        Some(url) if url.contains("://") => Some(Jwks::Url { url, ca }),
        // A text without a scheme is a path.
        Some(path) => Some(Jwks::File(base.join(path))),
        None => None,
    };
    // The keys decide which tokens are valid. Over plain HTTP anyone on the path could replace
    // them.
    if let Some(Jwks::Url { url, .. }) = &jwks
        && !target(url, base, None)
            .is_some_and(|(target, _)| matches!(target, ServerAddress::Tls { .. }))
    {
        section.fault("jwks", "must be a path or https://HOST[:PORT]/PATH");
    }
    let jwks_refresh = section.seconds_or("jwks_refresh", 300);
    let idle_key = section.seconds_or("idle_key", 30 * 86_400);
    let handles = choice(&section, "handles", &[("on", true), ("off", false)]).unwrap_or(true);
    let principals = principals(&section, several);
    let token_list = section.count_or("token_list", LIST_MAX);
    if !(1..=LIST_CAP).contains(&token_list) {
        section.fault(
            "token_list",
            format!("must be 1 to {LIST_CAP}: the most entries of a list in a token"),
        );
    }
    section.not_enforced(&["pop"]);
    let mut own: BTreeMap<String, Caps> = BTreeMap::new();
    for (name, section) in section.named("principal") {
        own.insert(name, caps_alone(section));
    }
    section.close();
    // A missing value ends the function only here, after all other faults were found.
    let (iss, aud) = (iss?, aud?);
    caps.entry(iss.clone()).or_default().extend(own);
    Some(Issuer {
        iss,
        aud,
        jwks,
        namespaces,
        ttl_max,
        post_quantum,
        handles,
        jwks_refresh,
        idle_key,
        principals,
        token_list,
    })
}
