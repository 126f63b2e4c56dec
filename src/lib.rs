//! token-shield: an authentication gateway in front of inference servers.
//!
//! The crate is built in floors (docs/ARCHITECTURE.md): a module uses what stands on a lower floor and its neighbours in
//! its own folder, nothing else. Floors 0 and 1 are pure functions of bytes and values and build without the default
//! feature `gateway`.

// Floor 0: names, noes, time, keys, fsync.
pub mod clock;
pub mod crypto;
pub mod durable;
pub mod failpoint;
pub mod id;
pub mod json;
pub mod log_lines;
pub mod merkle;
pub mod refusal;
pub mod secret;

pub mod suggest;

// Floor 1: formats and decisions (and floor 3's pen inside audit/).
pub mod audit;
pub mod model;
pub mod token;

// Floor 2: the books.
#[cfg(feature = "gateway")]
pub mod health;
#[cfg(feature = "gateway")]
pub mod keyring;
#[cfg(feature = "gateway")]
pub mod metrics;
#[cfg(feature = "gateway")]
pub mod registry;
#[cfg(feature = "gateway")]
pub mod weights;

// Floor 3: the questions.
#[cfg(feature = "gateway")]
pub mod guard;

// Floor 4: the life of a request.
#[cfg(feature = "gateway")]
pub mod proxy;

// Floor 5: the file.
#[cfg(feature = "gateway")]
pub mod config;

// Floor 4, the other half: the life of a command.
#[cfg(feature = "gateway")]
pub mod control;

// Floor 6: wiring.
#[cfg(feature = "gateway")]
pub mod app;

// Floor 7: words in, exit code out.
#[cfg(feature = "offline")]
pub mod cli;
