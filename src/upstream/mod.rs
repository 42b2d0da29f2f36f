//! To the backend: making a connection, and keeping those that can be used again.

pub mod idle;

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::config::Address;
use crate::outcome::Outcome;
use crate::stream::Stream;

/// A connection to `address` within `limit`; else how the attempt ended, which is before anything was sent.
///
/// Cancelling it closes the half-made connection.
pub async fn connect(address: &Address, limit: Duration) -> Result<Stream, Outcome> {
    match tokio::time::timeout(limit, dial(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "cannot connect");
            Err(Outcome::ConnectFailed)
        }
        Err(_) => {
            tracing::debug!(%address, ?limit, "cannot connect in time");
            Err(Outcome::ConnectTimeout)
        }
    }
}

async fn dial(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Ip(address) => {
            let stream = TcpStream::connect(address).await?;
            // Small requests must not wait for the acknowledgement of the one before.
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
    }
}
