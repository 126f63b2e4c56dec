//! Classes of agents, and the rates that they share with principals, models and upstreams.

use toml::de::DeTable;

use super::section::Section;
use super::values::choice;
use crate::guard::cache_salt::CacheScope;
use crate::guard::settings::{Answers, Caps, Class, Requests};
use crate::model::UnknownFields;

/// The class of an unregistered agent, if the config has no `[class.default]`.
pub(super) fn tightest(name: &str) -> Class {
    let caps = Caps { rps: None, rpm: Some(120), burst: None, in_flight: Some(8) };
    let cache_scope = CacheScope::Principal;
    Class {
        name: name.to_owned(),
        caps,
        weight: 1,
        output_tokens: None,
        unknown_fields: UnknownFields::Drop,
        cache_scope,
        requests: Requests::default(),
        answers: Answers::default(),
        fetch_per_hour: 256 << 20,
    }
}

/// Reads the rates and the number of requests in flight.
pub(super) fn caps(section: &Section<'_>) -> Caps {
    Caps {
        rps: section.number("rps"),
        rpm: section.number("rpm"),
        burst: section.number("burst"),
        in_flight: section.number("in_flight"),
    }
}

/// Reads a section that has only caps.
pub(super) fn caps_alone(section: Section<'_>) -> Caps {
    let caps = caps(&section);
    section.close();
    caps
}

/// Reads `[class.NAME]`. A missing key has the value of [`tightest`].
pub(super) fn class<'t>(name: &str, section: Section<'t>, empty: &'t DeTable<'t>) -> Class {
    let tightest = tightest(name);
    let mut caps = caps(&section);
    // A class without any rate would be unlimited, so the default rate applies.
    if caps.rps.is_none() && caps.rpm.is_none() {
        caps.rpm = tightest.caps.rpm;
    }
    caps.in_flight = caps.in_flight.or(tightest.caps.in_flight);
    let modes = [("refuse", UnknownFields::Refuse), ("drop", UnknownFields::Drop)];
    let unknown_fields =
        choice(&section, "unknown_fields", &modes).unwrap_or(tightest.unknown_fields);
    let scopes = [
        ("principal", CacheScope::Principal),
        ("class", CacheScope::Class),
        ("shared", CacheScope::Shared),
    ];
    let cache_scope = choice(&section, "cache_scope", &scopes).unwrap_or(tightest.cache_scope);
    let output_tokens = section.number("output_tokens");
    let requests = super::egress::requests(section.table("requests", empty));
    let answers = super::egress::answers(section.table("answers", empty));
    let fetch_per_hour = section.bytes_or("fetch_per_hour", tightest.fetch_per_hour);
    let weight = section.number_or("weight", 1);
    if !(1..=1000).contains(&weight) {
        section.fault("weight", "must be from 1 to 1000");
    }
    // The fault above already refuses a larger value.
    let weight = u32::try_from(weight).unwrap_or(1);
    section.close();
    Class {
        name: tightest.name,
        caps,
        weight,
        output_tokens,
        unknown_fields,
        cache_scope,
        requests,
        answers,
        fetch_per_hour,
    }
}
