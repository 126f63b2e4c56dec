//! The capability token: a signed statement of an operator that an agent may do this much until a
//! certain time (docs/TOKEN.md).
//!
//! `Presented` is a parsed text, and [`Verified`] is a statement of a known issuer. Minting is in
//! this module too; the guard never imports it.

mod chain;
mod claims;
pub mod constraint;
pub mod delegate;
pub mod handle;
pub mod inspect;
pub mod jwk;
pub mod mint;
mod names;
mod presented;
mod principals;
mod scope;
mod verify;

pub use claims::{Grants, ModelGrant};
pub use names::{LIST_MAX, ListFault, Names};
pub use presented::{LINKS_MAX, Link, Presented};
pub use principals::Principals;
pub use scope::{Scope, Scopes};
pub use verify::{
    IssuerPolicy, KeySource, KnownKey, PostQuantum, Verified, verify, verify_issued,
    verify_signatures, verify_whenever,
};

/// The `typ` of a token (RFC 9068 section 2.1).
pub const TYP: &str = "at+jwt";
/// The `type` of the one entry of `authorization_details` (RFC 9396).
pub const DETAIL_TYPE: &str = "agent_delegation";

/// A name from an unauthenticated caller's token, safe for a log: quoted, escaped, at most 80
/// characters.
fn quoted(name: &str) -> String {
    format!("{:?}", name.chars().take(80).collect::<String>())
}
