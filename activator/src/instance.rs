//! One instance as this activator knows it.

use crate::pool::Pool;
use arc_swap::ArcSwap;
use dormouse_core::record::Subject;
use dormouse_proto::v1;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// An instance.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) addr: SocketAddr,
    /// What records of calls are about that come from now on.
    pub(crate) subject: ArcSwap<Subject>,
    /// It speaks HTTP/2 without TLS, else HTTP/1.1.
    pub(crate) http2: bool,
    /// When the routes first named it, by the process's clock.
    pub(crate) told: Duration,
    pub(crate) pool: Pool,
    /// The routes called it ready once.
    pub(crate) told_ready: AtomicBool,
    /// Its port was seen open by us.
    pub(crate) port_open: AtomicBool,
    /// A call was given to it.
    pub(crate) first_call: AtomicBool,
    /// A call on it timed out: it gets no more, for ever.
    pub(crate) retired: AtomicBool,
    /// All its connections have broken since the routes last named it: the address may be another's by now.
    pub(crate) broken: AtomicBool,
    /// Its slots while it is kept warm, else 0.
    pub(crate) warm_slots: AtomicU16,
    /// A task tries its port.
    pub(crate) dialled: AtomicBool,
    /// Connections that could not be had, or ended before a call was sent, since the last response: they lengthen the
    /// pause before the next try.
    pub(crate) failures: AtomicUsize,
    /// Cancelled when the routes no longer name it.
    pub(crate) forgotten: CancellationToken,
}

impl Instance {
    pub(crate) fn new(told: &v1::Instance, addr: SocketAddr, subject: Arc<Subject>, now: Duration) -> Self {
        Self {
            id: told.id.clone(),
            addr,
            subject: ArcSwap::new(subject),
            http2: told.h2c,
            told: now,
            pool: Pool::default(),
            told_ready: AtomicBool::new(false),
            port_open: AtomicBool::new(false),
            first_call: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            warm_slots: AtomicU16::new(0),
            dialled: AtomicBool::new(false),
            failures: AtomicUsize::new(0),
            forgotten: CancellationToken::new(),
        }
    }

    /// The routes no longer name it.
    pub(crate) fn forget(&self) {
        self.forgotten.cancel();
        self.pool.close();
    }

    /// True when this is what the routes mean.
    pub(crate) fn is(&self, told: &v1::Instance) -> bool {
        self.id == told.id && told.address.parse() == Ok(self.addr)
    }

    /// What the record of a call is about that came when this tenant paid.
    pub(crate) fn subject_for(&self, tenant: Option<&str>) -> Arc<Subject> {
        let subject = self.subject.load_full();
        match tenant {
            // The routes named another one while it ran.
            Some(tenant) if *subject.tenant != *tenant => {
                Arc::new(Subject { tenant: tenant.to_owned(), ..Subject::clone(&subject) })
            }
            _ => subject,
        }
    }

    /// It answered.
    pub(crate) fn note_response(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// A call was given to it; true for the first one.
    pub(crate) fn note_first_call(&self) -> bool {
        !self.first_call.load(Relaxed) && !self.first_call.swap(true, Relaxed)
    }
}
