//! token-shield: an authentication gateway in front of inference servers.
//!
//! The crate is built in floors (docs/ARCHITECTURE.md): a module uses what stands on a lower floor and its neighbours in
//! its own folder, nothing else. Floors 0 and 1 are pure functions of bytes and values and build without the default
//! feature `gateway`.

pub mod clock;
pub mod id;
pub mod json;
pub mod refusal;
