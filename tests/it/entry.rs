//! A caller who leaves while the admission is on its way to the disk: the record has its outcome all the same.

use std::future::Future as _;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use token_shield::audit::entry::{Draft, Pen};
use token_shield::audit::log::{Log, Settings};
use token_shield::audit::reader;
use token_shield::audit::request::{About, Caller};
use token_shield::audit::vault::Vault;
use token_shield::clock::{Clock, SystemClock};
use token_shield::durable::Disk;
use token_shield::id::{KeyId, RequestId, TokenId};
use token_shield::metrics::Metrics;

use crate::journal::Gate;

fn about() -> About {
    let caller = Caller {
        agent: "acme/reader".parse().expect("agent"),
        principal: "user:ada".parse().expect("principal"),
        chain: vec![(TokenId([1; 32]), KeyId([2; 32]))],
    };
    About {
        request: RequestId::new(1_790_000_000_000, 1),
        caller: Arc::new(caller),
        handle: None,
        operation: "chat",
        model: Some("m".into()),
        policy: "p".into(),
    }
}

#[test]
fn an_admission_without_a_caller_is_closed_as_aborted() {
    let data = tempfile::tempdir().expect("a folder");
    let settings = Settings { reserve: 0, ..Settings::of_data(data.path(), "gw.example") };
    let (disk, clock) = (Arc::new(Gate::default()), Arc::new(SystemClock::start()));
    let time = || Arc::clone(&clock) as Arc<dyn Clock>;
    let (log, _) = Log::open_on(settings.clone(), time(), Arc::clone(&disk) as Arc<dyn Disk>).expect("a log");
    let pen = Pen::new(Arc::new(log.clone()), time(), Arc::new(Metrics::new(&[], &[], None).expect("metrics"))).expect("a pen");
    disk.shut();
    {
        let draft = Draft {
            about: about(),
            upstream: None,
            model_digest: None,
            output_tokens: None,
            stripped: Vec::new(),
            received: b"x",
            forwarded: None,
        };
        let mut sealing = std::pin::pin!(pen.seal((), draft));
        let polled = sealing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Pending), "nothing is durable yet");
        // The caller leaves: nobody waits for it any more.
    }
    disk.open();
    drop(pen);
    // Whatever the first record brings with it is in the queue before the log closes.
    while log.state().size < 2 && log.healthy() {
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
    log.close().expect("closed");
    let (epochs, vault) = (reader::epochs(&settings.dir).expect("a log"), Vault::read(&settings.record_keys).expect("keys"));
    let mut told = Vec::new();
    let _ = reader::each(&epochs[0], 0, |found| {
        let record = found.tell(&vault).expect("it opens");
        told.push((record.kind.clone(), record.text("code")));
        ControlFlow::Continue(())
    });
    assert_eq!(told, [("admission".to_owned(), None), ("outcome".to_owned(), Some("aborted".to_owned()))]);
}
