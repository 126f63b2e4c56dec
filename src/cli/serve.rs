//! `token-shield serve`.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::logs::{self, Form};
use super::place::Target;
use super::{Failure, Place};
use crate::app::handover::{Program, Taken, ask};
use crate::app::{App, Listeners, Prepared};
use crate::config::Config;

#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    place: Place,
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

/// What this process was started as: a link stays a link, because an upgrade may lie behind it by then. Asked before a newer
/// program is put in its place.
fn program() -> std::io::Result<Program> {
    let mut words = std::env::args_os();
    let named = words.next().map(PathBuf::from).unwrap_or_default();
    let path = match named.components().count() {
        0 => None,
        // As the shell has found it.
        1 => std::env::var_os("PATH").and_then(|folders| {
            std::env::split_paths(&folders).map(|folder| folder.join(&named)).find(|path| is_this_program(path))
        }),
        _ => Some(std::path::absolute(&named)?).filter(|path| is_this_program(path)),
    };
    let path = match path {
        Some(path) => path,
        None => std::env::current_exe()?,
    };
    Ok(Program { path, words: words.collect() })
}

/// Whether that path leads to the program of this process.
fn is_this_program(path: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    identity(path).is_some_and(|found| Some(found) == identity(Path::new("/proc/self/exe")))
}

/// The program with words that start a successor on the same config: where it was found, it is named from then on.
fn named(mut program: Program, target: &Target) -> Result<Program, Failure> {
    if !target.named {
        program.words.extend(["--config".into(), OsString::from(std::path::absolute(&target.config)?)]);
    }
    Ok(program)
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        logs::start(self.log)?;
        // From the first moment on: unheard, these signals would end the process.
        let _hangups = signal(SignalKind::hangup())?;
        let stop = until_told()?;
        let program = program().inspect_err(|error| tracing::warn!(%error, "this process cannot start its successor")).ok();
        let target = self.place.find()?;
        let config = target.read()?;
        let program = program.map(|program| named(program, &target)).transpose()?;
        let name = config.name.clone();
        let (app, listeners) = self.start(&target, config).await?;
        tracing::info!(
            api = %listeners.api.local_addr()?,
            metrics = %listeners.metrics.local_addr()?,
            name,
            config = %target.config.display(),
            pid = std::process::id(),
            "serving"
        );
        let app = if let Some(program) = program { app.started_as(program) } else { app };
        app.run(listeners, stop).await?;
        tracing::info!("stopped");
        Ok(())
    }

    /// A gateway in the place of the one that runs, or where there is none.
    async fn start(&self, target: &Target, config: Config) -> Result<(App, Listeners), Failure> {
        if self.take_over {
            let prepared = Prepared::new(config.clone(), Some(target.config.clone()))?;
            let keyring = prepared.keys().await?;
            let (asked, source) = (config.clone(), target.config.clone());
            let taken = tokio::task::spawn_blocking(move || match ask(&asked, Some(&source))? {
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
        let app = App::build(config.clone(), Some(target.config.clone()))?;
        let listeners = Listeners::bind(&config).await?.with_handover(&config)?;
        Ok((app, listeners))
    }
}

/// A process that dies closes its descriptors one after the other: waits until the log's lock is free, for two seconds at the most.
/// Whether it is shows when the log is opened.
async fn free(config: &Config) {
    for _ in 0..40 {
        if !crate::audit::store::log::is_locked(&config.audit) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
