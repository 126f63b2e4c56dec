//! `token-shield serve`: runs a gateway from a config file.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::logs::{self, LogFormat};
use super::target::GatewayTarget;
use super::{Failure, GatewayArgs};
use crate::app::handover::{Program, TakeOver, ask};
use crate::app::{App, Listeners, PreparedGateway};
use crate::config::Config;

#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    place: GatewayArgs,
    /// The form of log lines.
    #[arg(long, value_enum, default_value = "json")]
    log: LogFormat,
    /// Take over from the gateway that runs with this config, without a gap. If none runs, start as
    /// usual.
    #[arg(long)]
    take_over: bool,
}

/// A receiver that turns true on SIGTERM or SIGINT.
pub(super) fn until_told() -> Result<watch::Receiver<bool>, Failure> {
    let (stop, stopped) = watch::channel(false);
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
        // The sender must live until the end. Receivers report an error for a dropped one.
        stop.closed().await;
    });
    Ok(stopped)
}

/// The path and the arguments of this process. A symbolic link stays a link, because it may lead to
/// a newer version later. Must be called early, before a newer program replaces the file.
fn program() -> std::io::Result<Program> {
    let mut words = std::env::args_os();
    let named = match words.next() {
        Some(word) => PathBuf::from(word),
        None => PathBuf::new(),
    };
    let path = match named.components().count() {
        0 => None,
        // A name without a folder was found in PATH, so the same search is made here.
        1 => in_search_path(&named),
        _ => Some(std::path::absolute(&named)?).filter(|path| is_this_program(path)),
    };
    let path = match path {
        Some(path) => path,
        None => std::env::current_exe()?,
    };
    Ok(Program { path, words: words.collect() })
}

/// The path of this program in a folder of PATH. `None` if it is in none of them.
fn in_search_path(name: &Path) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    for folder in std::env::split_paths(&folders) {
        let path = folder.join(name);
        if is_this_program(&path) {
            return Some(path);
        }
    }
    None
}

/// The device and the inode of a file. `None` if the file cannot be found.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Whether the path leads to the program of this process.
fn is_this_program(path: &Path) -> bool {
    identity(path).is_some_and(|found| Some(found) == identity(Path::new("/proc/self/exe")))
}

/// The program and the arguments for a successor with the same config. If the config was found by a
/// search, its path is added.
fn named(mut program: Program, target: &GatewayTarget) -> Result<Program, Failure> {
    if !target.named {
        program
            .words
            .extend(["--config".into(), OsString::from(std::path::absolute(&target.config)?)]);
    }
    Ok(program)
}

impl Serve {
    /// Runs the gateway until a stop or the end of its drain.
    pub(super) async fn run(self) -> Result<(), Failure> {
        logs::start(self.log)?;
        // Before everything else: without a handler, these signals would end the process.
        let _hangups = signal(SignalKind::hangup())?;
        let stop = until_told()?;
        let program = match program() {
            Ok(program) => Some(program),
            Err(error) => {
                tracing::warn!(%error, "this process cannot start its successor");
                None
            }
        };
        let target = self.place.find()?;
        let config = target.read()?;
        let program = match program {
            Some(program) => Some(named(program, &target)?),
            None => None,
        };
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

    /// Builds a gateway. With `--take-over` it takes over from a running one.
    async fn start(
        &self,
        target: &GatewayTarget,
        config: Config,
    ) -> Result<(App, Listeners), Failure> {
        if self.take_over {
            // Everything that can fail without the log comes first. The running gateway pauses only
            // after it.
            let prepared = PreparedGateway::new(config.clone(), Some(target.config.clone()))?;
            let keyring = prepared.keys().await?;
            let (asked, source) = (config.clone(), target.config.clone());
            let taken = tokio::task::spawn_blocking(move || match ask(&asked, Some(&source))? {
                TakeOver::Over(over) => prepared.take(keyring, *over).map(Some),
                TakeOver::Nobody => Ok(None),
                TakeOver::Died => Ok(None),
            });
            if let Some(taken) = taken.await?? {
                return Ok(taken);
            }
            // The former process may have died during the exchange.
            free(&config).await;
            tracing::info!("no gateway runs with this config: starting as usual");
        }
        let app = App::build(config.clone(), Some(target.config.clone()))?;
        // After the log: its lock proves that no other gateway uses these socket paths.
        let listeners = Listeners::bind(&config).await?.with_handover(&config)?;
        Ok((app, listeners))
    }
}

/// Waits at most two seconds until the log's lock is free. A process that dies closes its
/// descriptors one after the other. The start itself reports whether the lock is free.
async fn free(config: &Config) {
    for _ in 0..40 {
        if !crate::audit::store::log::is_locked(&config.audit) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
