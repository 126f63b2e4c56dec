//! The run of a gateway. It serves until it gets a stop or another process takes over, and then
//! drains.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::background::Background;
use super::handover::{Giver, Predecessor, Successor, serve_requests};
use super::keys::{FileWatch, KeyWatchInputs, UrlWatch};
use super::listeners::{HandoverSockets, RunningSockets, copied};
use super::management::{ManagementSockets, SocketHandlers, Sockets};
use super::notify::Notifier;
use super::prepared::FormerProcess;
use super::readiness::Readiness;
use super::wiring::{tree, wiring};
use super::{App, LAST_WORDS, Listeners, StartFault, certificate, digests, housekeeping, reload};
use crate::audit::format::event::Event;
use crate::guard::settings;
use crate::lock::locked;
use crate::proxy::descriptors;
use crate::proxy::entrance::Entrance;
use crate::proxy::listen;
use crate::proxy::service::Api;
use crate::proxy::settings::Tls;
use crate::proxy::terms::Terms;

/// What a run shares with the task that hands over to another process.
struct Serving {
    /// The socket files to remove at the stop.
    own: Vec<PathBuf>,
    issuers: watch::Receiver<Arc<Vec<settings::Issuer>>>,
    entrance: Arc<Entrance>,
    /// The admin, auditors' and metrics sockets.
    management: Arc<tokio::sync::Mutex<ManagementSockets>>,
    notifier: Arc<Notifier>,
    predecessor: Option<Arc<Predecessor>>,
    stopping: watch::Receiver<bool>,
    /// The process that has taken over, if one has.
    successor: Arc<std::sync::Mutex<Option<Arc<Successor>>>>,
    /// Locked during a take-over.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The number of connections of the take-over socket that wait for an answer.
    owed: Arc<watch::Sender<usize>>,
}

/// Runs the task that hands over, and logs its failure.
async fn giving(giver: Giver) {
    if let Err(error) = Arc::new(giver).run().await {
        tracing::error!(%error, "no successor can take over from this process");
    }
}

/// Fetches published keys before the first request, so that tokens of these issuers are accepted at
/// once. A stop ends the wait.
async fn fetched(urls: &mut UrlWatch, is_successor: bool, mut stopping: watch::Receiver<bool>) {
    if is_successor {
        urls.resume();
        return;
    }
    tokio::select! {
        () = urls.once() => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

impl App {
    /// Runs until `shutdown` turns true. Then it stops accepting, lets streams finish within the
    /// drain's time, and records the stop. After a take-over it also lets streams finish, and
    /// leaves the log to the successor.
    ///
    /// # Errors
    /// If the start or the stop cannot be recorded.
    pub async fn run(
        mut self,
        listeners: Listeners,
        shutdown: watch::Receiver<bool>,
    ) -> Result<(), StartFault> {
        // Before the first answer: with a port of 0, the policy must learn the real address of each
        // listener.
        self.knows(&listeners)?;
        for warning in super::warnings(&self.config) {
            tracing::warn!("{warning}");
        }
        let connections_max = self.connections()?;
        // The order is fixed. `start` is durable before the first answer, and readiness is reported
        // after the sockets are open.
        housekeeping::warn_of_private_keys(&self.config);
        let before = self.predecessor.take();
        let is_successor = before.is_some();
        // A successor records no start: the former process has recorded `handover` for it.
        if !is_successor {
            self.record_start().await?;
        }
        let predecessor = before.map(|before| self.attend(before));
        let notifier = Arc::new(Notifier::from_environment(is_successor));
        let entrance = Arc::new(Entrance::default());
        let (api, own) = (listeners.api, listeners.own.clone());
        let sockets = RunningSockets::of(
            &api,
            listeners.admin,
            listeners.auditors,
            listeners.metrics,
            listeners.handover,
        )?;
        let management = self.management(sockets.management, &shutdown)?;
        let mut background = Background::default();
        let issuers_in_force =
            self.begin_background(&mut background, &notifier, is_successor, &shutdown).await;
        notifier.ready();
        let turn: Arc<tokio::sync::Mutex<()>> = Arc::default();
        let owed = Arc::new(watch::Sender::new(0));
        let successor: Arc<std::sync::Mutex<Option<Arc<Successor>>>> = Arc::default();
        if let Some(passed) = sockets.handover {
            let serving = Serving {
                own: own.clone(),
                issuers: issuers_in_force,
                entrance: Arc::clone(&entrance),
                management: Arc::clone(&management),
                notifier: Arc::clone(&notifier),
                predecessor: predecessor.clone(),
                stopping: shutdown.clone(),
                successor: Arc::clone(&successor),
                turn: Arc::clone(&turn),
                owed: Arc::clone(&owed),
            };
            background.until_the_end(giving(self.giver(passed, serving)));
        }
        background.watch(&entrance, &notifier, shutdown.clone());
        let service = Arc::new(Api { gateway: Arc::clone(&self.gateway), entrance });
        listen::run(api, self.terms(connections_max), service, shutdown.clone()).await;
        // Operators and scrapers are served until the last agent is served. After that, the gateway
        // does not wait for them. A take-over that is under way ends first: if it fails, the log is
        // opened again.
        self.gateway_state.log.closes_soon();
        let _turn = turn.lock().await;
        // Under `turn`, no take-over is in progress, so this value is final.
        let successor = locked(&successor).take();
        // After the last answer, so that metrics and limits were correct until then.
        background.end();
        if let Some(successor) = successor {
            // The command that started the upgrade still waits for its answer.
            let _ = tokio::time::timeout(LAST_WORDS, owed.subscribe().wait_for(|owed| *owed == 0))
                .await;
            return self.end_elsewhere(&successor).await;
        }
        // The socket files are removed last, in `end`.
        management.lock().await.close().await;
        self.end(predecessor, &own).await
    }

    /// Starts the tasks that watch files, URLs, keys and the weights of models. Returns the issuers
    /// in force.
    async fn begin_background(
        &self,
        background: &mut Background,
        notifier: &Arc<Notifier>,
        is_successor: bool,
        stopping: &watch::Receiver<bool>,
    ) -> watch::Receiver<Arc<Vec<settings::Issuer>>> {
        let issuers = watch::Sender::new(Arc::new(self.config.guard.issuers.clone()));
        let mut urls = UrlWatch::new(self.key_watch_inputs(&issuers));
        fetched(&mut urls, is_successor, stopping.clone()).await;
        let registry = Arc::clone(&self.gateway_state.registry);
        let clock = Arc::clone(&self.gateway_state.ratchet);
        // Sweeps, metrics and key watches also serve streams that drain. Reloads, certificates and
        // weights belong to the process that serves.
        background.until_the_end(housekeeping::run(Arc::clone(&self.gateway), registry, clock));
        background.until_the_end(FileWatch::new(self.key_watch_inputs(&issuers)).run());
        background.until_the_end(urls.run());
        background.while_it_serves(digests::watch(Arc::clone(&self.gateway)));
        let files = watch::Sender::new(self.config.proxy.listen.tls.clone());
        background.while_it_serves(self.certificate_watch(&files));
        let issuers_in_force = issuers.subscribe();
        // A take-over ends the reload, which has the sender. Without a sender, the watches over
        // keys would end too, and a removed key would still be good for streams that drain.
        let sender = issuers.clone();
        background.until_the_end(async move { sender.closed().await });
        background
            .while_it_serves(reload::on_hangup(self.reload(issuers, files), Arc::clone(notifier)));
        if let Some(alive) = notifier.keep_alive() {
            background.while_it_serves(alive);
        }
        issuers_in_force
    }

    /// The inputs of one watch over keys. Each watch has its own receiver, so that none misses a
    /// reload.
    fn key_watch_inputs(
        &self,
        issuers: &watch::Sender<Arc<Vec<settings::Issuer>>>,
    ) -> KeyWatchInputs {
        KeyWatchInputs {
            issuers: issuers.subscribe(),
            keyring: Arc::clone(&self.gateway_state.keyring),
            gateway: Arc::clone(&self.gateway),
        }
    }

    /// Records the start, with the version and the policy.
    async fn record_start(&self) -> Result<(), StartFault> {
        let (version, policy) = (env!("CARGO_PKG_VERSION").to_owned(), self.config.policy.clone());
        self.gateway_state.log.append(Event::Start { version, policy }, None).await?;
        Ok(())
    }

    /// The task that hands over to another process. It has a copy of the API's socket, and the
    /// socket for take-overs.
    fn giver(&self, sockets: HandoverSockets, serving: Serving) -> Giver {
        let HandoverSockets { api, handover } = sockets;
        let Serving {
            own,
            issuers,
            entrance,
            management,
            notifier,
            predecessor,
            stopping,
            successor,
            turn,
            owed,
        } = serving;
        Giver {
            api,
            handover,
            own,
            issuers,
            entrance,
            management,
            notifier,
            predecessor,
            stopping,
            successor,
            turn,
            config: self.config.clone(),
            source: self.source.clone(),
            program: self.program.clone(),
            gateway: Arc::clone(&self.gateway),
            keyring: Arc::clone(&self.gateway_state.keyring),
            control: Arc::clone(&self.control),
            log: Arc::clone(&self.gateway_state.log),
            outcome: watch::Sender::new(None),
            upgrading: tokio::sync::Mutex::default(),
            owed,
        }
    }

    /// The limits and settings of the API's listener.
    fn terms(&self, connections_max: usize) -> Terms {
        Terms {
            tls: self.tls.clone(),
            trusted_proxies: self.config.proxy.trusted_proxies.clone(),
            connections_max,
            peer_connections_max: self.config.proxy.peer_connections_max,
            timeouts: self.config.proxy.timeouts.clone(),
        }
    }

    /// Opens the admin, auditors' and metrics sockets.
    fn management(
        &self,
        sockets: Sockets,
        draining: &watch::Receiver<bool>,
    ) -> Result<Arc<tokio::sync::Mutex<ManagementSockets>>, StartFault> {
        let (log, clock) =
            (Arc::clone(&self.gateway_state.log), Arc::clone(&self.gateway_state.ratchet));
        let handlers = SocketHandlers {
            control: Arc::clone(&self.control),
            tree: Arc::new(tree(&self.config)?),
            metrics: Arc::clone(&self.metrics),
            ready: Readiness {
                log,
                clock,
                gateway: Arc::clone(&self.gateway),
                draining: draining.clone(),
            },
        };
        // Opened before readiness is reported, so that the first probe gets an answer.
        let mut management = ManagementSockets::new(handlers, sockets);
        management.open().map_err(copied)?;
        Ok(Arc::new(tokio::sync::Mutex::new(management)))
    }

    /// Records for the former process, and answers requests on its connections.
    fn attend(&self, before: FormerProcess) -> Arc<Predecessor> {
        let FormerProcess { process, records, requests } = before;
        tokio::spawn(Arc::clone(&process).records(records));
        tokio::spawn(serve_requests(Arc::clone(&self.gateway), requests));
        process
    }

    /// The number of callers' connections that the limit of open files allows. Warns if the config
    /// has more.
    fn connections(&self) -> Result<usize, StartFault> {
        let wanted = self.config.proxy.connections_max;
        let shares = descriptors::share(wanted)?;
        if let Some(lowered) = shares.lowered(wanted) {
            tracing::warn!("{lowered}");
        }
        Ok(shares.connections)
    }

    /// Passes the real addresses of the listeners to the egress policy. They are never a
    /// destination, also with a port that the system has chosen.
    fn knows(&mut self, listeners: &Listeners) -> Result<(), StartFault> {
        let address = self.config.proxy.listen.address;
        let real = match (listeners.api.local_addr(), listeners.metrics.local_addr()) {
            (Ok(api), Ok(metrics)) => (api, metrics),
            (Err(error), _) | (_, Err(error)) => {
                return Err(StartFault::Bind { address: address.to_string(), error });
            }
        };
        let proxy = &mut self.config.proxy;
        if real != (proxy.listen.address, proxy.metrics) {
            (proxy.listen.address, proxy.metrics) = real;
            // The policy was built with port 0, so the data plane is built again.
            self.gateway.config.store(Arc::new(wiring(&self.config)?));
        }
        Ok(())
    }

    /// The watch over the certificate's files. Without TLS it ends at once.
    fn certificate_watch(
        &self,
        files: &watch::Sender<Option<Tls>>,
    ) -> impl Future<Output = ()> + use<> {
        let (metrics, clock) = (Arc::clone(&self.metrics), Arc::clone(&self.gateway.clock));
        let watch = self.tls.as_ref().map(|served| {
            let (files, served) = (files.subscribe(), Arc::clone(served));
            certificate::CertificateWatch { files, served, metrics, clock }
        });
        async move {
            if let Some(watch) = watch {
                watch.run().await;
            }
        }
    }

    /// Everything that a reload on SIGHUP needs.
    fn reload(
        &self,
        issuers: watch::Sender<Arc<Vec<settings::Issuer>>>,
        certificate: watch::Sender<Option<Tls>>,
    ) -> reload::Reload {
        reload::Reload {
            issuers,
            source: self.source.clone(),
            gateway: Arc::clone(&self.gateway),
            keyring: Arc::clone(&self.gateway_state.keyring),
            control: Arc::clone(&self.control),
            log: Arc::clone(&self.gateway_state.log),
            tls: self.tls.clone(),
            certificate,
            started: self.config.clone(),
        }
    }
}
