//! A wall clock that steps back, and the operator's statement that it is right.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use token_shield::app::GatewayState;
use token_shield::audit::format::event::Event;
use token_shield::audit::store::log::{Log, LogSettings};
use token_shield::clock::{Clock as _, ManualClock, SystemClock};
use token_shield::config::{self, Config};
use token_shield::control::{Command, Operator};

fn config(data: &Path) -> Config {
    let text = "name = \"gw\"\ndata = \".\"\n[[issuer]]\niss = \"https://i\"\naud \
        = \"https://g\"\nnamespaces = [\"*\"]\n\
                [[upstream]]\nname = \"echo\"\nurl = \"echo:\"\n[[model]]\nname = \"echo\"\nroute \
                = [\"echo\"]\n\
                [audit]\nreserve = \"1MiB\"\n";
    config::read(text, data).expect("a config")
}

/// By how much the clock is before the last record when the state is opened again.
fn behind(config: &Config) -> Duration {
    let state = GatewayState::open(config).expect("books");
    let behind = state.ratchet.behind();
    state.log.close().expect("closed");
    behind
}

#[test]
fn an_accepted_clock_stays_accepted_after_a_restart() {
    let data = tempfile::tempdir().expect("a folder");
    token_shield::durable::make_private_dir(data.path()).expect("for this user alone");
    let config = config(data.path());
    // A log whose last record is one hour ahead of this machine's clock.
    let ahead =
        Arc::new(ManualClock::at(SystemClock::start().now().plus(Duration::from_secs(3600))));
    std::fs::create_dir_all(data.path().join("secret")).expect("a folder");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let (log, _) = Log::open(LogSettings { name: "gw".to_owned(), ..config.audit.clone() }, ahead)
        .expect("a log");
    runtime.block_on(log.append(Event::Stop, None)).expect("sealed");
    log.close().expect("closed");
    assert!(behind(&config) > Duration::from_secs(3000), "the log is ahead");

    let state = GatewayState::open(&config).expect("books");
    let control = Arc::new(state.control(&config, None));
    let operator = Operator("uid:0".to_owned());
    runtime.block_on(control.apply(&operator, Command::ClockAccept)).expect("accepted");
    assert_eq!(state.ratchet.behind(), Duration::ZERO);
    state.log.close().expect("closed");
    drop(control);
    assert!(behind(&config) < Duration::from_secs(60), "the operator's word outlives the restart");
}
