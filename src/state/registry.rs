//! Which backends are known while the next snapshot is made, and which of them it leaves behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Snapshot;
use super::backend::{BackendKey, BackendState};
use crate::config::Initial;

/// The backends of the previous snapshot that the next one has not asked for yet, and the next free number.
#[derive(Default)]
pub(super) struct Registry {
    waiting: BTreeMap<BackendKey, Arc<BackendState>>,
    next_id: u64,
}

impl Registry {
    /// All that `previous` knows: what is in its pools, and what is retired but still there.
    pub(super) fn of(previous: &Snapshot) -> Registry {
        let live = previous.backends().map(|backend| &backend.state);
        let known = live.chain(&previous.retired).map(|state| (state.key().clone(), Arc::clone(state)));
        Registry { waiting: known.collect(), next_id: previous.next_backend_id }
    }

    /// The state of `key`: the one it has, or a new one, whose health is `initial`.
    pub(super) fn state(&mut self, key: BackendKey, initial: Initial) -> Arc<BackendState> {
        if let Some(known) = self.waiting.remove(&key) {
            return known;
        }
        let id = self.next_id;
        self.next_id += 1;
        Arc::new(BackendState::beginning(id, key, initial))
    }

    /// The number that no backend has yet.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Those that nobody asked for, oldest first. One that was in service until now stays even when it is idle, because a
    /// worker may take it until it is told to drain; one that is drained is forgotten.
    pub(super) fn into_retired(self) -> Vec<Arc<BackendState>> {
        let mut retired: Vec<_> = self.waiting.into_values().filter(|state| !state.is_drained()).collect();
        retired.sort_by_key(|state| state.id());
        retired
    }
}
