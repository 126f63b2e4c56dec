//! `token-shield serve`.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use super::logs::{self, Form};
use crate::app::{App, Listeners};

#[derive(Args)]
pub(super) struct Serve {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The form of log lines.
    #[arg(long, value_enum, default_value = "json")]
    log: Form,
}

/// A signal that turns true on SIGTERM or SIGINT.
pub(super) fn until_told() -> Result<watch::Receiver<bool>, Failure> {
    let (stop, stopped) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
        // Held until the end: a dropped sender would read as a stop that never came.
        stop.closed().await;
    });
    Ok(stopped)
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        logs::start(self.log)?;
        // From the first moment on: unheard, these signals would end the process.
        let _hangups = signal(SignalKind::hangup())?;
        let stop = until_told()?;
        let text = std::fs::read_to_string(&self.config).map_err(|error| format!("{}: {error}", self.config.display()))?;
        let base = self.config.parent().unwrap_or(std::path::Path::new("."));
        let config = crate::config::read(&text, base).map_err(|faults| format!("{}:\n{faults}", self.config.display()))?;
        let app = App::build(config.clone(), Some(self.config))?;
        let listeners = Listeners::bind(&config).await?;
        tracing::info!(api = %listeners.api.local_addr()?, metrics = %listeners.metrics.local_addr()?, name = config.name, "serving");
        app.run(listeners, stop).await?;
        tracing::info!("stopped");
        Ok(())
    }
}
