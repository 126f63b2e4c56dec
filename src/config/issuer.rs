//! Issuers: whose tokens are read.

use std::path::Path;
use std::time::Duration;

use super::bind::choice;
use super::section::Section;
use super::server::target;
use crate::guard::settings::{Issuer, Jwks};
use crate::proxy::settings::Target;
use crate::token::PostQuantum;

pub(super) fn issuer(section: Section<'_>, base: &Path) -> Option<Issuer> {
    let (iss, aud) = (section.required("iss"), section.required("aud"));
    let namespaces = section.texts("namespaces");
    if namespaces.is_empty() {
        section.fault("namespaces", "must name the namespaces that this issuer may speak for (\"*\" for all)");
    }
    let modes = [("required-root", PostQuantum::RequiredRoot), ("required", PostQuantum::Required), ("off", PostQuantum::Off)];
    let post_quantum = choice(&section, "pq", &modes).unwrap_or(PostQuantum::RequiredRoot);
    let ttl_max = section.duration("ttl_max").unwrap_or(Duration::from_secs(30 * 86_400));
    let ca = section.text("jwks_ca").map(|path| base.join(path));
    let jwks = section.text("jwks").map(|text| match text.contains("://") {
        true => Jwks::Url { url: text, ca: ca.clone() },
        false => Jwks::File(base.join(text)),
    });
    if let Some(Jwks::Url { url, .. }) = &jwks
        && !target(url, base, None).is_some_and(|(target, _)| matches!(target, Target::Tls { .. }))
    {
        section.fault("jwks", "must be a path or https://HOST[:PORT]/PATH");
    }
    let jwks_refresh = section.duration("jwks_refresh").unwrap_or(Duration::from_secs(300));
    let idle_key = section.duration("idle_key").unwrap_or(Duration::from_secs(30 * 86_400));
    let handles = choice(&section, "handles", &[("on", true), ("off", false)]).unwrap_or(true);
    section.not_enforced(&["pop"]);
    section.close();
    Some(Issuer { iss: iss?, aud: aud?, jwks, namespaces, ttl_max, post_quantum, handles, jwks_refresh, idle_key })
}
