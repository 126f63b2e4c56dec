//! The capability token: what an operator signs to say that an agent may do this much, until then (docs/TOKEN.md).
//!
//! `Presented` is bytes of the right shape, [`Verified`] is what an issuer said. Minting stands here too, and is never
//! imported by what guards the door.

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

/// A name out of a stranger's token as a log may hold it: quoted, escaped, at most 80 characters of it.
fn quoted(name: &str) -> String {
    format!("{:?}", name.chars().take(80).collect::<String>())
}
