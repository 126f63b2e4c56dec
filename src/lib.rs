//! token-shield: an authentication gateway in front of inference servers.
//!
//! The crate has floors (docs/ARCHITECTURE.md). A module uses only modules of lower floors and of
//! the same folder. Floors 0 and 1 are pure functions of bytes and values, and build without the
//! default feature `gateway`.

// Floor 0: names, refusals, time, keys, durable files.
pub mod clock;
pub mod crypto;
pub mod durable;
#[cfg(feature = "gateway")]
pub mod failpoint;
pub mod id;
pub mod json;
pub mod lock;
pub mod log_lines;
pub mod merkle;
pub mod refusal;
pub mod secret;
pub mod suggest;

// Floor 1: formats and decisions. audit/store, on floor 3, is also in audit/.
pub mod audit;
pub mod model;
pub mod token;

// Floor 2: state. Control writes it, the data plane reads it.
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

// Floor 3: the checks of a request.
#[cfg(feature = "gateway")]
pub mod guard;

// Floor 4: the path of a request.
#[cfg(feature = "gateway")]
pub mod proxy;

// Floor 5: the config file.
#[cfg(feature = "gateway")]
pub mod config;

// Floor 4, second part: the path of a command.
#[cfg(feature = "gateway")]
pub mod control;

// Floor 6: the application.
#[cfg(feature = "gateway")]
pub mod app;

// Floor 7: the command line.
#[cfg(feature = "offline")]
pub mod cli;
