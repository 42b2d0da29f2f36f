//! How many connections each client has, where that is limited.
//!
//! A client is an IPv4 address or an IPv6 network of 64 bits: whoever has one address of those has them all. The table
//! lies in shards, so that workers that accept at once seldom wait for one another. It has an entry for a client as long as
//! the client has a connection, so it is never larger than the number of connections, and gives memory back after a flood.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::admission::Episode;
use crate::state::ListenerId;

const SHARDS: usize = 16;

/// The table. Where clients choose their addresses they must not choose their places in it too: the hash is keyed.
#[derive(Debug, Default)]
pub(super) struct Clients {
    shards: [Mutex<HashMap<Client, u32, RandomState>>; SHARDS],
    hash: RandomState,
    /// When one had too many.
    pub(super) met: Episode,
}

/// A client at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    listener: ListenerId,
    network: Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    /// The upper half of the address.
    V6(u64),
}

/// A connection that is counted for its client.
#[derive(Debug)]
pub(super) struct ClientPlace {
    clients: Arc<Clients>,
    client: Client,
}

impl Network {
    fn of(address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(address) => Network::V4(address.to_bits()),
            IpAddr::V6(address) => Network::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl Clients {
    /// Counts one more connection of a client at a listener, if that is within the limit.
    pub(super) fn enter(
        self: &Arc<Self>,
        listener: ListenerId,
        address: IpAddr,
        limit: NonZeroU32,
    ) -> Option<ClientPlace> {
        let client = Client { listener, network: Network::of(address) };
        {
            let mut shard = self.shard(client);
            let count = shard.entry(client).or_default();
            if *count >= limit.get() {
                return None;
            }
            *count += 1;
        }
        Some(ClientPlace { clients: Arc::clone(self), client })
    }

    fn shard(&self, client: Client) -> MutexGuard<'_, HashMap<Client, u32>> {
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is below the number of shards")]
        let shard = (self.hash.hash_one(client) % SHARDS as u64) as usize;
        // Nothing panics while it is held.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, client: Client) {
        let mut shard = self.shard(client);
        let Entry::Occupied(mut count) = shard.entry(client) else { return };
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
            if shard.len() < shard.capacity() / 8 {
                let enough = shard.len() * 2;
                shard.shrink_to(enough);
            }
        }
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        self.clients.leave(self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;
    use crate::state::Snapshot;

    const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();

    fn listeners() -> [ListenerId; 2] {
        let text = "listeners = { a = { bind = '127.0.0.1:0', redirect_to_https = true }, \
                    b = { bind = '127.0.0.1:0', redirect_to_https = true } }";
        let snapshot =
            Snapshot::next(&from_text("test.toml", text).unwrap().config, &crate::tls::Materials::default(), None);
        let mut ids = snapshot.listeners().map(|plan| plan.id);
        [ids.next().unwrap(), ids.next().unwrap()]
    }

    fn enter(clients: &Arc<Clients>, listener: ListenerId, address: &str) -> Option<ClientPlace> {
        clients.enter(listener, address.parse().unwrap(), TWO)
    }

    #[test]
    fn an_ipv4_address_and_an_ipv6_network_are_one_client_each() {
        let [a, b] = listeners();
        for (first, second, third, other) in [
            ("192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::2", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"),
        ] {
            let clients = Arc::default();
            let kept = [enter(&clients, a, first), enter(&clients, a, second)];
            assert!(kept.iter().all(Option::is_some));
            assert!(enter(&clients, a, third).is_none());
            assert!(enter(&clients, a, other).is_some(), "another client");
            assert!(enter(&clients, b, first).is_some(), "another listener");
            drop(kept);
            assert!(enter(&clients, a, third).is_some());
        }
    }

    #[test]
    fn nothing_is_left_of_a_flood() {
        let (clients, [a, _]): (Arc<Clients>, _) = (Arc::default(), listeners());
        let flood: Vec<_> =
            (0..50_000_u32).map(|bits| clients.enter(a, IpAddr::V4(bits.into()), TWO).unwrap()).collect();
        let sum = |of: fn(&HashMap<Client, u32>) -> usize| -> usize {
            clients.shards.iter().map(|shard| of(&shard.lock().unwrap())).sum()
        };
        assert_eq!(sum(HashMap::len), 50_000);
        drop(flood);
        assert_eq!(sum(HashMap::len), 0);
        assert!(sum(HashMap::capacity) < 1000, "{}", sum(HashMap::capacity));
    }
}
