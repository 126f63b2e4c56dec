//! Records that are not durable yet while a caller disconnects, a command is executed, or the
//! gateway ends.

use std::collections::BTreeSet;
use std::future::Future as _;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use token_shield::audit::format::event::Event;
use token_shield::audit::format::request::{Admission, BodyDigest, Caller, RequestContext};
use token_shield::audit::read::reader;
use token_shield::audit::store::entry::AuditRecorder;
use token_shield::audit::store::log::{Log, LogSettings};
use token_shield::audit::store::vault::Vault;
use token_shield::clock::{Clock, Ratchet, SystemClock};
use token_shield::control::{Command, Control, ControlParts, Operator, StatusVerb};
use token_shield::crypto::encryption::KeyedDigest;
use token_shield::durable::Disk;
use token_shield::id::{KeyId, RequestId, TokenId};
use token_shield::keyring::Keyring;
use token_shield::metrics::Metrics;
use token_shield::registry::Registry;
use token_shield::weights::Weights;

use crate::journal::Gate;

fn about() -> RequestContext {
    let caller = Caller {
        agent: "acme/reader".parse().expect("agent"),
        principal: "user:ada".parse().expect("principal"),
        chain: vec![(TokenId([1; 32]), KeyId([2; 32]))],
    };
    RequestContext {
        request: RequestId::new(1_790_000_000_000, 1),
        caller: Arc::new(caller),
        handle: None,
        peer: None,
        operation: "chat",
        model: Some("m".into()),
        policy: "p".into(),
    }
}

fn admission() -> Admission {
    let digest_key = [7; 16];
    Admission {
        about: about(),
        upstream: None,
        model_digest: None,
        output_tokens: None,
        stripped: Vec::new(),
        fetches: Vec::new(),
        digest_key,
        received: BodyDigest { bytes: 1, digest: KeyedDigest::of(&digest_key, b"x") },
        forwarded: None,
    }
}

/// A log on a disk with a gate, and its audit recorder.
struct Desk {
    _data: tempfile::TempDir,
    settings: LogSettings,
    disk: Arc<Gate>,
    clock: Arc<Ratchet>,
    log: Arc<Log>,
    recorder: AuditRecorder,
}

impl Desk {
    fn new() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let settings =
            LogSettings { reserve: 0, ..LogSettings::of_data(data.path(), "gw.example") };
        let (disk, clock) =
            (Arc::new(Gate::default()), Arc::new(Ratchet::new(Box::new(SystemClock::start()))));
        let time = || Arc::clone(&clock) as Arc<dyn Clock>;
        let (log, _) = Log::open_on(settings.clone(), time(), Arc::clone(&disk) as Arc<dyn Disk>)
            .expect("a log");
        let log = Arc::new(log);
        let metrics = Arc::new(Metrics::new(&[], &[], None).expect("metrics"));
        let recorder = AuditRecorder::new(Arc::clone(&log), time(), metrics).expect("a pen");
        Self { _data: data, settings, disk, clock, log, recorder }
    }

    /// Queues an admission while the disk is closed. Then its caller disconnects.
    fn admit_and_leave(&self) {
        let mut sealing = std::pin::pin!(self.recorder.commit((), admission()));
        let polled = sealing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Pending), "nothing is durable yet");
    }

    /// The kinds and codes of all records.
    fn told(&self) -> Vec<(String, Option<String>)> {
        let epochs = reader::epochs(&self.settings.dir).expect("a log");
        let (vault, mut told) =
            (Vault::read(&self.settings.record_keys).expect("keys"), Vec::new());
        let _ = reader::each(&epochs[0], 0, |found| {
            let record = found.tell(&vault).expect("it opens");
            told.push((record.kind.clone(), record.text("code")));
            ControlFlow::Continue(())
        });
        told
    }
}

fn kinds(told: &[(String, Option<String>)]) -> Vec<(&str, Option<&str>)> {
    told.iter().map(|(kind, code)| (kind.as_str(), code.as_deref())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_without_a_caller_is_closed_as_aborted_before_the_gateway_has_ended() {
    let desk = Desk::new();
    desk.disk.shut();
    desk.admit_and_leave();
    let finished = {
        let mut finishing = std::pin::pin!(desk.recorder.finish(Duration::from_secs(60)));
        let polled = finishing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Pending), "something is open");
        assert!(
            desk.recorder.commit((), admission()).await.is_err(),
            "nothing is admitted any more"
        );
        desk.disk.open();
        finishing.await
    };
    assert!(finished);
    desk.log.append(Event::Stop, None).await.expect("sealed");
    desk.log.close().expect("closed");
    assert_eq!(
        kinds(&desk.told()),
        [("admission", None), ("outcome", Some("aborted")), ("stop", None)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_finds_no_room_lets_nobody_say_that_all_is_done() {
    let desk = Desk::new();
    let sealed =
        desk.recorder.commit((), admission()).await.unwrap_or_else(|no| panic!("{}", no.code));
    desk.log.close().expect("closed");
    // The dropped exchange needs an outcome, but the log is closed already.
    drop(sealed);
    assert!(!desk.recorder.finish(Duration::from_secs(60)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_answered_behind_a_command_finds_it_in_the_books() {
    let desk = Desk::new();
    let (registry, keyring, weights) =
        (Arc::new(Registry::new()), Arc::new(Keyring::new()), Arc::new(Weights::default()));
    let control = Arc::new(Control::new(ControlParts {
        log: Arc::clone(&desk.log),
        registry: Arc::clone(&registry),
        keyring,
        weights,
        metrics: None,
        classes: BTreeSet::new(),
        clock: Arc::clone(&desk.clock) as Arc<dyn Clock>,
        ratchet: Arc::clone(&desk.clock),
    }));
    for (verb, stands) in [(StatusVerb::Suspend, false), (StatusVerb::Resume, true)] {
        desk.disk.shut();
        // The requests that follow share one batch.
        desk.admit_and_leave();
        // The writer has taken the admission and waits at the closed disk.
        while desk.log.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        let command = Command::AgentStatus {
            agent: "acme/reader".to_owned(),
            verb,
            reason: "a test".to_owned(),
            unregistered: true,
        };
        let (own, operator) = (Arc::clone(&control), Operator("uid:0".to_owned()));
        let commanding = tokio::spawn(async move { own.apply(&operator, command).await });
        while desk.log.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        // This record follows the command in the log. Its callback must already see the new status.
        let (answer, answered) = std::sync::mpsc::channel();
        let asking = Arc::clone(&registry);
        desk.log.append_with(Event::Stop, None, move |_| {
            let agent = "acme/reader".parse().expect("agent");
            let principal = "team:acme".parse().expect("principal");
            let _ = answer.send(asking.may_act(&agent, &principal, &[]).is_ok());
        });
        desk.disk.open();
        assert_eq!(answered.recv(), Ok(stands), "{verb:?}");
        commanding.await.expect("a task").expect("carried out");
        // With the outcome of the caller that disconnected, all records are in the log.
        while !desk.log.state().size.is_multiple_of(4) {
            tokio::task::yield_now().await;
        }
    }
}
