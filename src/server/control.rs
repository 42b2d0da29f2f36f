//! Control of the workers: the one place that writes the snapshot, and the other end of every mailbox.
//!
//! A new snapshot is stored, every worker is told to look at it, and once all have, it is settled with the backends: those
//! that leave take nothing more. The snapshot it replaces is kept until no request goes by it any more, so that its memory
//! is given back here and not in the middle of somebody's request.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::admission::Admission;
use super::bells;
use super::descriptors;
use super::receipt::receipts;
use super::retire::{Order, attend, orders, wake};
use super::sockets::SocketId;
use super::spread::Loads;
use super::worker::{HANDED, Mail, Setup, Worker};
use crate::clock;
use crate::health::Checkers;
use crate::record::Collected;
use crate::state::{ListenerId, Snapshot};

/// How long a worker may take to answer; it is a matter of microseconds unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether a worker's thread has ended.
const BLINK: Duration = Duration::from_millis(1);

/// How often it is looked whether a snapshot is still held. Only its memory waits for that.
const LOOK: Duration = Duration::from_secs(1);

/// The workers and what they share.
#[derive(Debug)]
pub(super) struct Control {
    snapshots: Arc<ArcSwap<Snapshot>>,
    workers: Vec<Worker>,
    loads: Arc<Loads>,
    admission: Arc<Admission>,
    deaths: mpsc::Receiver<usize>,
    orders: mpsc::Sender<Order>,
    checkers: Checkers,
    /// The attendant of leaving backends, who keeps the breakers' time, and those who hold a snapshot that is out of force. They end with this.
    tasks: JoinSet<()>,
}

impl Control {
    /// Starts this many workers on a first snapshot.
    ///
    /// # Errors
    /// A thread or its runtime could not be made; then none is left running.
    pub(super) async fn start(first: Snapshot, workers: usize, admission: Arc<Admission>) -> io::Result<Control> {
        first.settle();
        let (died, deaths) = mpsc::channel(workers);
        let (orders, received) = orders();
        let mut control = Control {
            snapshots: Arc::new(ArcSwap::from_pointee(first)),
            workers: Vec::with_capacity(workers),
            loads: Loads::new(workers),
            admission,
            deaths,
            orders,
            checkers: Checkers::new(descriptors::probes(), fastrand::u64(..)),
            tasks: JoinSet::new(),
        };
        control.start_workers(workers, &died).await?;
        control.tasks.spawn(attend(received, control.mailboxes()));
        control.tasks.spawn(bells::keep_time(Arc::clone(&control.snapshots)));
        control.check_health(&control.snapshot())?;
        Ok(control)
    }

    /// The mailboxes for those who must not keep the workers alive.
    fn mailboxes(&self) -> Vec<mpsc::WeakSender<Mail>> {
        self.workers.iter().map(|worker| worker.mail.downgrade()).collect()
    }

    /// Has the health of this snapshot's backends looked after.
    fn check_health(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let mailboxes = self.mailboxes();
        self.checkers.follow(snapshot, move || wake(&mailboxes))
    }

    async fn start_workers(&mut self, workers: usize, deaths: &mpsc::Sender<usize>) -> io::Result<()> {
        let (colleagues, handed): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(HANDED)).unzip();
        for (worker, handed) in handed.into_iter().enumerate() {
            let setup = Setup {
                worker,
                snapshots: Arc::clone(&self.snapshots),
                seed: fastrand::u64(..),
                loads: Arc::clone(&self.loads),
                admission: Arc::clone(&self.admission),
                colleagues: colleagues.clone().into(),
                handed,
                deaths: deaths.clone(),
            };
            self.workers.push(Worker::start(setup).await?);
        }
        Ok(())
    }

    /// How many workers were started.
    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Client connections that are open, over all workers.
    pub(super) fn connections(&self) -> u64 {
        self.loads.total()
    }

    /// Client connections of each worker.
    #[cfg(test)]
    pub(super) fn connections_by_worker(&self) -> Vec<u64> {
        (0..self.workers()).map(|worker| self.loads.of(worker)).collect()
    }

    /// The snapshot in force.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.load_full()
    }

    /// Puts a snapshot in force. `owners` says whose each listening address is under it, `drain_timeout` how long those
    /// backends have that leave with it.
    pub(super) async fn publish(
        &mut self,
        next: Snapshot,
        owners: Vec<(SocketId, ListenerId)>,
        drain_timeout: Duration,
    ) {
        let next = Arc::new(next);
        next.admit(clock::now());
        let retired = self.snapshots.swap(Arc::clone(&next));
        next.call_waiting();
        next.bells().opened.ring();
        let owners: Arc<[_]> = owners.into();
        let (receipt, all) = receipts();
        self.tell_all(|| Mail::Revalidate(Arc::clone(&owners), receipt.clone()));
        drop(receipt);
        if !all.all_within(PATIENCE).await {
            tracing::warn!(generation = next.generation(), "a worker is slow to take up the new configuration");
        }
        self.admission.look_again();
        next.settle();
        self.tell_all(|| Mail::Settled);
        // Only connections of a listener that is gone stand on something that is no more. To wake them all is not cheap.
        if retired.listeners().any(|plan| next.listener(plan.id).is_none()) {
            self.tell_all(|| Mail::Wake);
        }
        self.see_off(retired);
        if let Err(error) = self.check_health(&next) {
            tracing::error!(%error, "no health checks: their thread can not be made");
        }
        let order = Order { leaving: next.ending().cloned().collect(), timeout: drain_timeout };
        // The attendant ends only with this.
        let _ = self.orders.send(order).await;
    }

    /// Lets go of a snapshot as soon as nobody else holds it.
    fn see_off(&mut self, retired: Arc<Snapshot>) {
        // What has ended is reaped here, or the set would grow with every reload.
        while self.tasks.try_join_next().is_some() {}
        if Arc::strong_count(&retired) > 1 {
            self.tasks.spawn(last_to_hold(retired));
        }
    }

    /// Tells all workers to give up these listening addresses; says whether all have done so in time.
    pub(super) async fn unlisten(&self, sockets: &[SocketId]) -> bool {
        let (receipt, all) = receipts();
        self.tell_all(|| Mail::Unlisten(sockets.to_vec(), receipt.clone()));
        drop(receipt);
        all.all_within(PATIENCE).await
    }

    /// What every worker has seen of the backends. One that is stuck or dead is left out.
    pub(super) async fn observe(&self) -> Vec<Collected> {
        let ask = |worker| {
            let (answer, answered) = oneshot::channel();
            self.tell(worker, Mail::Observe(answer));
            answered
        };
        let asked: Vec<_> = (0..self.workers()).map(ask).collect();
        let deadline = clock::timer(clock::now() + PATIENCE);
        let mut collected = Vec::with_capacity(asked.len());
        for answered in asked {
            if let Ok(Ok(one)) = timeout_at(deadline, answered).await {
                collected.push(one);
            }
        }
        collected
    }

    /// Puts a message into every mailbox.
    pub(super) fn tell_all(&self, mail: impl Fn() -> Mail) {
        (0..self.workers()).for_each(|worker| self.tell(worker, mail()));
    }

    /// Puts a message into a mailbox. Control never waits for a worker to read: one whose mailbox is full is stuck.
    pub(super) fn tell(&self, worker: usize, mail: Mail) {
        match self.workers[worker].mail.try_send(mail) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(mail)) => tracing::error!(worker, ?mail, "a worker reads no messages"),
            Err(mpsc::error::TrySendError::Closed(mail)) => tracing::debug!(worker, ?mail, "a dead worker was told"),
        }
    }

    /// The next worker that has died; for ever when none does.
    pub(super) async fn worker_died(&mut self) -> usize {
        match self.deaths.recv().await {
            Some(worker) => worker,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Control {
    /// Lets go of the mailboxes, at which the workers end, and waits a moment for their sockets to be closed.
    fn drop(&mut self) {
        let threads: Vec<_> = self.workers.drain(..).map(|worker| worker.thread).collect();
        let mut left = PATIENCE.as_millis() / BLINK.as_millis();
        while left > 0 && threads.iter().any(|thread| !thread.is_finished()) {
            left -= 1;
            thread::sleep(BLINK);
        }
    }
}

/// Holds a snapshot until nobody else does.
async fn last_to_hold(retired: Arc<Snapshot>) {
    while Arc::strong_count(&retired) > 1 {
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    /// One that knows this backend alone.
    fn snapshot(port: usize, previous: Option<&Snapshot>) -> Snapshot {
        let text = format!(
            "[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n[pools.app]\nbackends = [\"127.0.0.1:{port}\"]\n"
        );
        Snapshot::next(&from_text("test.toml", &text).unwrap().config, &crate::tls::Materials::default(), previous)
    }

    #[tokio::test]
    async fn any_number_of_reloads_leaves_nothing_behind() {
        let mut control = Control::start(snapshot(1, None), 2, Admission::new(1000)).await.unwrap();
        for port in 2..500 {
            let before = control.snapshot();
            let next = snapshot(port, Some(&before));
            // Some are still held when they are replaced.
            let _held = (port % 2 == 0).then_some(before);
            control.publish(next, Vec::new(), Duration::ZERO).await;
        }
        assert_eq!(control.snapshot().retired().len(), 1, "only the last that left");
        let next = snapshot(1, Some(&control.snapshot()));
        tokio::time::sleep(LOOK + LOOK / 10).await;
        control.publish(next, Vec::new(), Duration::ZERO).await;
        assert!(control.tasks.len() <= 3, "{} tasks", control.tasks.len());
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_a_snapshot_too_long_does_not_have_to_take_it_apart() {
        let held = Arc::new(snapshot(1, None));
        let weak = Arc::downgrade(&held);
        let last = tokio::spawn(last_to_hold(Arc::clone(&held)));
        tokio::time::sleep(10 * LOOK).await;
        assert!(!last.is_finished());
        drop(held);
        assert_eq!(weak.strong_count(), 1);
        last.await.unwrap();
        assert_eq!(weak.strong_count(), 0);
    }
}
