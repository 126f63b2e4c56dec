//! The guard: the checks that every request passes, in order. Each step consumes the value of the
//! step before, and only that step can make its own value. So code that skips a check does not
//! compile.
//!
//! ```text
//! Credential → Authenticated → Paced → Routed → Understood → Cleared → Screened → Governed
//! → Capped → Reserved → Admitted
//! ```
//!
//! The next steps are in `audit` (the admission is recorded) and in `proxy` (the request is
//! forwarded).

pub mod admit;
pub mod authenticate;
pub mod betas;
pub mod cache_salt;
pub mod candidates;
pub mod cap;
pub mod charges;
pub mod declared;
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
