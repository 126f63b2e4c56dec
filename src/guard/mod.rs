//! The questions that every request is asked, in order. Each step consumes the value of the one before and only that step
//! can make its own, so a request that skipped a question does not compile.
//!
//! ```text
//! Credential → Authenticated → Paced → Routed → Understood → Cleared → Screened → Governed → Capped → Reserved → Admitted
//! ```
//!
//! What follows, the seal and the forward, is audit/'s and proxy/'s.

pub mod admit;
pub mod authenticate;
pub mod cache_salt;
pub mod candidates;
pub mod cap;
pub mod charges;
pub mod egress;
pub mod gcra;
pub mod govern;
pub mod limiter;
pub mod pace;
pub mod passed;
pub mod queue;
pub mod reserve;
pub mod route;
pub mod screen;
pub mod settings;
pub mod slots;
pub mod table;
pub mod understand;
