//! One worker: a thread with a runtime of its own that accepts and serves connections, and a mailbox through which
//! control speaks to it.
//!
//! Only control writes to the mailbox, and when control lets go of it the worker ends at once, with all it serves.
//! A panic in a connection's task ends that connection; one in the worker itself is reported and ends the worker.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::admission::Admission;
use super::bells;
use super::listener::{Acceptor, Offer};
use super::receipt::Receipt;
use super::reception::{Handed, Reception};
use super::sockets::SocketId;
use super::spread::Loads;
use crate::local::Local;
use crate::record::Collected;
use crate::state::{ListenerId, Snapshot};

/// Messages that may wait in a mailbox; control sends a handful per reload.
const MAILBOX: usize = 256;

/// Connections that may wait to be taken over. When there are more, whoever accepted them keeps them.
pub(super) const HANDED: usize = 256;

/// What control tells a worker.
#[derive(Debug)]
pub(super) enum Mail {
    /// Accept on these too.
    Listen(Vec<Offer>),
    /// Accept who waits on these, then close them.
    Unlisten(Vec<SocketId>, Receipt),
    /// There is a new snapshot, and these addresses belong to these listeners now.
    Revalidate(Arc<[(SocketId, ListenerId)]>, Receipt),
    /// Say what was seen of the backends.
    Observe(oneshot::Sender<Collected>),
    /// No worker begins anything by an older snapshot any more.
    Settled,
    /// A backend was cut or a listener removed: sessions look at what they stand on.
    Wake,
    /// Connections finish what they do.
    Drain,
    /// Every connection ends now.
    CutAll,
}

/// What a worker needs to begin.
pub(super) struct Setup {
    pub(super) worker: usize,
    pub(super) snapshots: Arc<ArcSwap<Snapshot>>,
    pub(super) seed: u64,
    pub(super) loads: Arc<Loads>,
    pub(super) admission: Arc<Admission>,
    /// How every worker, this one included, is handed connections.
    pub(super) colleagues: Box<[mpsc::Sender<Handed>]>,
    pub(super) handed: mpsc::Receiver<Handed>,
    /// Told the worker's number when it dies.
    pub(super) deaths: mpsc::Sender<usize>,
}

/// Control's end of a worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) mail: mpsc::Sender<Mail>,
    pub(super) thread: thread::JoinHandle<()>,
}

impl Worker {
    /// Starts the thread and waits until its runtime stands.
    ///
    /// # Errors
    /// The thread or its runtime could not be made.
    pub(super) async fn start(setup: Setup) -> io::Result<Worker> {
        let (mail, inbox) = mpsc::channel(MAILBOX);
        let (ready, started) = oneshot::channel();
        let name = format!("worker-{}", setup.worker);
        let thread = thread::Builder::new().name(name).spawn(move || live(setup, inbox, ready))?;
        match started.await {
            Ok(Ok(())) => Ok(Worker { mail, thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the thread ended before it had begun")),
        }
    }
}

/// The whole life of the thread.
fn live(setup: Setup, inbox: mpsc::Receiver<Mail>, ready: oneshot::Sender<io::Result<()>>) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        // Whoever waits for the answer has the error; if nobody does, the start was given up.
        Err(error) => return drop(ready.send(Err(error))),
    };
    let (worker, deaths) = (setup.worker, setup.deaths.clone());
    // What the panic leaves behind is dropped with the runtime and never looked at again.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&runtime, setup, inbox, ready))) {
        tracing::error!(worker, panic = text(&*panic), "a worker died; its share of the connections is lost");
        // When the channel is full or closed, the same has been said already or nobody is left to hear it.
        let _ = deaths.try_send(worker);
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

fn work(runtime: &LocalRuntime, setup: Setup, mut inbox: mpsc::Receiver<Mail>, ready: oneshot::Sender<io::Result<()>>) {
    let Setup { worker, snapshots, seed, loads, admission, colleagues, mut handed, .. } = setup;
    runtime.block_on(async move {
        let withdrawn = snapshots.load().bells().withdrawn.listen();
        let local = Local::new(worker, snapshots, seed);
        let reception = Rc::new(Reception::new(worker, Rc::clone(&local), loads, admission, colleagues));
        let mut station = Station { local, reception, accepting: HashMap::new(), tasks: JoinSet::new() };
        station.tasks.spawn_local(bells::wake_sessions(Rc::clone(&station.local), withdrawn));
        // If nobody waits for it any more, the mailbox is closed as well.
        let _ = ready.send(Ok(()));
        loop {
            // Cancelling loses nothing: each of the three hands over a whole value or none.
            tokio::select! {
                biased;
                mail = inbox.recv() => match mail {
                    Some(mail) => station.read(mail),
                    None => return,
                },
                Some(connection) = handed.recv() => station.reception.take_over(connection),
                Some(ended) = station.tasks.join_next() => stop_if_panicked(ended),
            }
        }
    });
}

/// An accepting task ends by itself only when it is told to; one that panicked would leave its clients waiting for ever.
fn stop_if_panicked(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        resume_unwind(panic);
    }
}

/// What the mailbox acts on.
struct Station {
    local: Rc<Local>,
    reception: Rc<Reception>,
    accepting: HashMap<SocketId, Accepting>,
    tasks: JoinSet<()>,
}

struct Accepting {
    listener: Rc<Cell<ListenerId>>,
    end: oneshot::Sender<Receipt>,
}

impl Station {
    fn read(&mut self, mail: Mail) {
        match mail {
            Mail::Listen(offers) => offers.into_iter().for_each(|offer| self.listen(offer)),
            Mail::Unlisten(sockets, receipt) => self.unlisten(&sockets, &receipt),
            Mail::Revalidate(owners, receipt) => self.revalidate(&owners, receipt),
            // Whoever asked may have stopped waiting.
            Mail::Observe(answer) => drop(answer.send(self.local.collect())),
            Mail::Settled => self.local.forget_departed(),
            Mail::Wake => self.local.wake_all(),
            Mail::Drain => self.local.drain(),
            Mail::CutAll => self.local.cut_all(),
        }
    }

    fn listen(&mut self, offer: Offer) {
        let (id, address) = (offer.id, offer.address.clone());
        let listener = Rc::new(Cell::new(offer.listener));
        match Acceptor::new(Rc::clone(&self.reception), offer, Rc::clone(&listener)) {
            Ok(acceptor) => {
                let (end, ended) = oneshot::channel();
                self.tasks.spawn_local(acceptor.run(ended));
                self.accepting.insert(id, Accepting { listener, end });
            }
            Err(error) => tracing::error!(%address, %error, "a worker cannot accept here"),
        }
    }

    fn unlisten(&mut self, sockets: &[SocketId], receipt: &Receipt) {
        for accepting in sockets.iter().filter_map(|id| self.accepting.remove(id)) {
            // The task gives the receipt back when its socket is closed. It can be gone only by a panic.
            let _ = accepting.end.send(receipt.clone());
        }
    }

    fn revalidate(&self, owners: &[(SocketId, ListenerId)], receipt: Receipt) {
        for (id, listener) in owners {
            if let Some(accepting) = self.accepting.get(id) {
                accepting.listener.set(*listener);
            }
        }
        drop(self.local.view());
        drop(receipt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_accepting_is_passed_on_and_an_end_is_not() {
        let panicked = tokio::spawn(async { panic!("on purpose") }).await;
        let caught = catch_unwind(AssertUnwindSafe(|| stop_if_panicked(panicked.map(drop)))).unwrap_err();
        assert_eq!(text(&*caught), "on purpose");
        stop_if_panicked(Ok(()));
        let aborted = tokio::spawn(std::future::pending::<()>());
        aborted.abort();
        stop_if_panicked(aborted.await);
    }

    #[test]
    fn a_panic_says_what_it_said() {
        assert_eq!(text(&String::from("so long")), "so long");
        assert_eq!(text(&"so short"), "so short");
        assert_eq!(text(&7), "without a message");
    }
}
