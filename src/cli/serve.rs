//! `token-shield serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use super::logs::{self, Form};
use crate::app::handover::{Program, Taken, ask};
use crate::app::{App, Listeners, Prepared};
use crate::config::Config;

#[derive(Args)]
pub(super) struct Serve {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The form of log lines.
    #[arg(long, value_enum, default_value = "json")]
    log: Form,
    /// Take over from the gateway that runs on this config, without a gap; where none runs, start as usual.
    #[arg(long)]
    take_over: bool,
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
        // Before a newer program is put in its place: the path is then no longer this process's.
        let program = std::env::current_exe().map(|path| Program { path, words: std::env::args_os().skip(1).collect() });
        let program = program.inspect_err(|error| tracing::warn!(%error, "this process cannot start its successor")).ok();
        let config = crate::config::read(&text, base).map_err(|faults| format!("{}:\n{faults}", self.config.display()))?;
        let name = config.name.clone();
        let (app, listeners) = self.start(config).await?;
        tracing::info!(
            api = %listeners.api.local_addr()?,
            metrics = %listeners.metrics.local_addr()?,
            name,
            pid = std::process::id(),
            "serving"
        );
        let app = if let Some(program) = program { app.started_as(program) } else { app };
        app.run(listeners, stop).await?;
        tracing::info!("stopped");
        Ok(())
    }

    /// A gateway in the place of the one that runs, or where there is none.
    async fn start(&self, config: Config) -> Result<(App, Listeners), Failure> {
        if self.take_over {
            let prepared = Prepared::new(config.clone(), Some(self.config.clone()))?;
            let keyring = prepared.keys().await?;
            let asked = config.clone();
            let taken = tokio::task::spawn_blocking(move || match ask(&asked)? {
                Taken::Over(over) => prepared.take(keyring, *over).map(Some),
                Taken::Nobody => Ok(None),
                Taken::Died => Ok(None),
            });
            if let Some(taken) = taken.await?? {
                return Ok(taken);
            }
            free(&config).await;
            tracing::info!("no gateway runs on this config: starting as usual");
        }
        let app = App::build(config.clone(), Some(self.config.clone()))?;
        let listeners = Listeners::bind(&config).await?.with_handover(&config)?;
        Ok((app, listeners))
    }
}

/// A process that dies closes its descriptors one after the other: waits until the log's lock is free, for two seconds at the most.
/// Whether it is shows when the log is opened.
async fn free(config: &Config) {
    for _ in 0..40 {
        if !crate::audit::log::is_locked(&config.audit) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
